"""How programs end: signals, streams that are closed or cannot be written, and any locale."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dessim.lab import launch
from dessim.processes import Ending

HERE = Path(__file__).parents[1]
WAITS_IN_C = """
import ctypes, threading
from dessim import processes
from dessim.processes import Ending
processes._GRACE_S = 0.5
with Ending("program"):
    mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    threading.Timer(0.2, lambda: print("ready", flush=True)).start()
    libc.pthread_mutex_lock(mutex)  # for ever, and no signal interrupts it
"""
WAITS_IN_PYTHON = """
import time
from dessim import processes
from dessim.processes import Ending
processes._GRACE_S = 0.5
try:
    with Ending("program"):
        print("ready", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)  # longer than a process that does not react may live
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


def test_a_signal_during_the_first_imports_is_one_line() -> None:
    program = """
import builtins, os, signal
import dessim.__main__
load = builtins.__import__
def interrupted(name, *rest):
    if name == "dessim.processes":
        builtins.__import__ = load
        os.kill(os.getpid(), signal.SIGTERM)
    return load(name, *rest)
builtins.__import__ = interrupted
dessim.__main__.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=HERE)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "dessim: interrupted\n")


def test_a_handler_that_replaces_another_tells_it_of_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the removal of a lab would be cut short, once the handler of the run is gone."""
    ending, told = Ending("program"), []
    monkeypatch.setattr(ending, "notice", lambda: told.append(True))
    with ending, pytest.raises(KeyboardInterrupt), launch._Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert told


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


def test_children_inherit_a_stream_that_was_closed() -> None:
    program = "import os; from dessim.processes import prepare_streams; prepare_streams(); print(os.get_inheritable(0))"
    done = subprocess.run(["bash", "-c", f"{sys.executable} -c '{program}' <&-"], capture_output=True, cwd=HERE)
    assert (done.stdout, done.stderr) == (b"True\n", b"")


def test_an_interrupt_after_the_reader_of_stdout_has_exited_is_one_line() -> None:
    program = """
import os
import dessim.__main__, dessim.cli.app
def run():
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    print("a result")
    raise KeyboardInterrupt
dessim.cli.app.main = run
dessim.__main__.main()
"""
    environment = os.environ | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=HERE, env=environment)
    assert (done.returncode, done.stderr) == (130, b"dessim: interrupted\n")
