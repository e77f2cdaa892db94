"""How programs end: signals, streams that are closed or cannot be written, and any locale."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
WAITS_IN_C = """
import ctypes, threading
from dessim.processes import Ending
with Ending("program"):
    mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    threading.Timer(0.5, lambda: print("ready", flush=True)).start()
    libc.pthread_mutex_lock(mutex)  # for ever, and no signal interrupts it
"""
WAITS_IN_PYTHON = """
import time
from dessim.processes import Ending
try:
    with Ending("program"):
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    time.sleep(3)  # longer than a process that does not react may live
    raise SystemExit(130)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("program", "says"), [(WAITS_IN_C, "program: interrupted\n"), (WAITS_IN_PYTHON, "")])
def test_a_signal_ends_a_program_whatever_it_waits_for(program: str, says: str, sent: signal.Signals) -> None:
    running = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=HERE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job ignores it
    )
    assert running.stdout is not None and running.stdout.readline() == "ready\n"
    running.send_signal(sent)
    assert running.communicate(timeout=60)[1] == says
    assert running.returncode == 130


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("model check fm >&-", 0, ""),
        ("model check none >&- 2>&-", 1, ""),
        ("model check fm > /dev/full", 1, "dessim: No space left on device\n"),
        ("model check fm | true; exit ${PIPESTATUS[0]}", 1, ""),
        ("model show fm | cat", 0, ""),
    ],
)
def test_streams_that_fail_give_one_line_at_most(command: str, code: int, says: str) -> None:
    program = f"{sys.executable} -m dessim {command}"
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, cwd=HERE, env=environment)
    if "true" not in command or done.returncode != 0:  # the reader may be fast enough not to be missed
        assert (done.returncode, done.stderr) == (code, says)


def test_escape_sequences_never_reach_the_terminal(tmp_path: Path) -> None:
    name = "red\x1b[31m\x9b2J"
    done = subprocess.run(
        [sys.executable, "-m", "dessim", "model", "show", f"{tmp_path}/{name}.toml"], capture_output=True, cwd=HERE
    )
    assert done.returncode == 1 and b"red\\x1b[31m\\x9b2J.toml" in done.stderr and b"\x1b" not in done.stderr
