"""One process at a time writes a folder; what a dead process held is taken over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dessim import locks
from dessim.errors import UsageError

HOLD = """
import sys
from pathlib import Path
from dessim import locks
locks.take(Path(sys.argv[1]), "folder")
print("taken", flush=True)
input()
"""


def holder(file: Path) -> subprocess.Popen:
    """A process that holds the lock until it is killed."""
    here = Path(__file__).parents[1]
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=here
    )
    assert held.stdout is not None and held.stdout.readline()
    return held


def test_a_living_process_keeps_its_lock_and_a_dead_one_loses_it(tmp_path: Path) -> None:
    file = tmp_path / "lock.json"
    held = holder(file)
    try:
        for attempt in (locks.take, locks.refuse_taken):
            with pytest.raises(UsageError, match=f"folder: process {held.pid} on .* is writing it; .*remove {file}"):
                attempt(file, "folder")
        locks.release(file)  # of another process: nothing happens
        assert json.loads(file.read_text())["pid"] == held.pid
    finally:
        held.kill()
    os.waitid(os.P_PID, held.pid, os.WEXITED | os.WNOWAIT)
    locks.refuse_taken(file, "folder")  # a zombie, which its parent has not waited for, writes nothing
    held.communicate()
    locks.take(file, "folder")
    locks.take(file, "folder")  # again by the same process
    assert json.loads(file.read_text())["pid"] == os.getpid()
    for _ in range(2):  # a lock that is not there is not made
        locks.release(file)
        assert not file.exists()


@pytest.mark.parametrize(
    ("change", "is_taken"),
    [
        ({"host": "elsewhere"}, True),
        ({"started": 1}, False),  # the number now belongs to a later process
        ({"pid": 2**22 + 1}, False),
        ({"pid": "all"}, False),
        ({"host": "elsewhere", "run": "job 7"}, False),  # torchrun restarts the run on other hosts
    ],
)
def test_who_holds_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, is_taken: bool) -> None:
    file = tmp_path / "lock.json"
    locks.take(file, "folder")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 7")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    if is_taken:
        with pytest.raises(UsageError, match="process"):
            locks.take(file, "folder")
    else:
        locks.take(file, "folder")


def test_a_lock_that_says_nothing_is_respected(tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text("[" * 10_000)
    with pytest.raises(UsageError, match="another process is writing it"):
        locks.take(tmp_path / "lock.json", "folder")
