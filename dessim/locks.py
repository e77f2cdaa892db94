"""A lock file, so that no two processes write the same folder.

It holds the process and the host of its owner. The lock of a process that has ended on this host is taken over; that of
another host cannot be judged, so a user must remove the file.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dessim.errors import UsageError

_MOST_BYTES = 4096


def take(file: Path, what: str) -> None:
    """Create the lock `file` of `what`, or take it over from a process that has ended. Raises UsageError, OSError."""
    with _alone_with(file, os.O_CREAT) as handle:
        _refuse(os.read(handle, _MOST_BYTES), file, what)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(_own()).encode(), 0)


def refuse_taken(file: Path, what: str) -> None:
    """Raise UsageError if a process that may still run holds the lock `file` of `what`."""
    with suppress(FileNotFoundError):
        _refuse(file.read_bytes(), file, what)


def release(file: Path) -> None:
    """Remove the lock, if this process holds it."""
    with suppress(OSError), _alone_with(file) as handle:
        if _parse(os.read(handle, _MOST_BYTES)) == _own():
            file.unlink()


def is_restart() -> bool:
    """Whether torchrun has started this process to replace one that failed (`--max-restarts`)."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


@contextmanager
def _alone_with(file: Path, flags: int = 0) -> Iterator[int]:
    """An open lock file that no other process reads or changes during the block. `flags`: more of those of open(2)."""
    while True:
        handle = os.open(file, flags | os.O_RDWR | os.O_NOFOLLOW, 0o644)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink:  # else its owner has just removed it
                yield handle
                return
        finally:
            os.close(handle)


def _refuse(content: bytes, file: Path, what: str) -> None:
    if not content:
        return
    holder = _parse(content)
    own = _own()
    if holder == own or (is_restart() and own["run"] and holder.get("run") == own["run"]):
        return  # torchrun starts all processes of a run again after one has failed, on these hosts or on others
    if holder.get("host") == own["host"] and not _runs(holder):
        return
    who = f"process {holder.get('pid')} on {holder.get('host')}" if holder else "another process"
    raise UsageError(f"{what}: {who} is writing it; name another one, or remove {file} if that process has ended")


def _own() -> dict[str, Any]:
    pid = os.getpid()
    run = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return {"pid": pid, "host": socket.gethostname(), "started": _started(pid), "run": "" if run == "none" else run}


def _parse(content: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _runs(holder: dict[str, Any]) -> bool:
    """Whether the holder, a process of this host, still runs. Another process may have its number by now."""
    pid = holder.get("pid")
    if not isinstance(pid, int) or not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    started = _started(pid)
    return started is None or started == holder.get("started")


def _started(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot; None if it has ended, or the system does not say."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        return -1 if state in "ZX" else int(fields[18])
    except (OSError, ValueError, IndexError):
        return None
