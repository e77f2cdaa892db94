"""One process a rank, in its NIC's namespace, with the environment that torchrun would give it.

The first rank that fails ends the others, which would wait for it forever. Whatever ends the run (Ctrl-C and SIGTERM
too), no process of it is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from dessim.errors import UsageError
from dessim.lab.layout import Layout

MASTER_PORT = 29500
"""torchrun's default; a lab's network is its own, so nobody else has it."""
TIMED_OUT = 124
"""The exit code that coreutils' timeout(1) gives."""
_POLL_S = 0.02
_GRACE_S = 3.0


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run ended: `code` is 0, or that of the first rank that failed, `rank` (128 + signal for one that was
    killed, 124 for a run out of time, which no rank is to blame for); `logs` are the ranks' output, a file each."""

    code: int
    rank: int | None
    logs: tuple[Path, ...]


def launch(
    layout: Layout,
    command: Sequence[str],
    logs: Path,
    ranks: int | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    echo: bool = False,
) -> Finished:
    """Run `command` on the first `ranks` ranks (default: all), output into `logs`/rank<i>.log.

    `env` goes on top of this process' own environment, `timeout` [s] ends the run, `echo` repeats the output of rank 0
    on stdout as it comes. Raises UsageError.
    """
    world = len(layout.ranks) if ranks is None else ranks
    if not command:
        raise UsageError("nothing to run; write the command after --, such as: dessim lab run -- python train.py")
    if not 1 <= world <= len(layout.ranks):
        raise UsageError(f"--ranks {world}: lab {layout.name} has places for 1 to {len(layout.ranks)}")
    logs.mkdir(parents=True, exist_ok=True)
    files = tuple(logs / f"rank{rank}.log" for rank in range(world))
    processes: list[subprocess.Popen[bytes]] = []
    with _terminated_as_interrupt(), files[0].open("wb+") as first:
        try:
            for rank, file in enumerate(files):
                processes.append(_start(layout, command, rank, world, file, env or {}))
            deadline = time.monotonic() + timeout if timeout is not None else None
            code, failed = _wait(processes, deadline, first.fileno() if echo else None)
        finally:
            _end(processes)
    return Finished(code, failed, files)


def environment(layout: Layout, rank: int, world: int) -> dict[str, str]:
    """What tells a rank who it is and where rank 0 listens."""
    place = layout.ranks[rank]
    here = sum(other.node == place.node for other in layout.ranks[:world])
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(place.local),
        "LOCAL_WORLD_SIZE": str(here),
        "GROUP_RANK": str(place.node),
        "MASTER_ADDR": layout.ranks[0].address,
        "MASTER_PORT": str(MASTER_PORT),
        "GLOO_SOCKET_IFNAME": "e0",
        "OMP_NUM_THREADS": "1",
    }


def _start(
    layout: Layout, command: Sequence[str], rank: int, world: int, log: Path, env: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    inside = ["ip", "netns", "exec", layout.ranks[rank].space, *command]
    whole = {**os.environ, **environment(layout, rank, world), **env}
    with log.open("wb") as out:
        return subprocess.Popen(
            inside, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=whole, start_new_session=True
        )


def _wait(
    processes: Sequence[subprocess.Popen[bytes]], deadline: float | None, echoed: int | None
) -> tuple[int, int | None]:
    """Until all have ended well, one has not, or the time is over."""
    at = 0
    while True:
        codes = [process.poll() for process in processes]
        if echoed is not None:
            at = _echo(echoed, at)
        for rank, code in enumerate(codes):
            if code:
                return (code if code > 0 else 128 - code), rank
        if all(code == 0 for code in codes):
            return 0, None
        if deadline is not None and time.monotonic() > deadline:
            return TIMED_OUT, None
        time.sleep(_POLL_S)


def _echo(file: int, at: int) -> int:
    """Repeat what a log has beyond `at`; returns where it ends now."""
    while more := os.pread(file, 1 << 16, at):
        sys.stdout.write(more.decode(errors="replace"))
        at += len(more)
    sys.stdout.flush()
    return at


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask those that still run to end, and after a grace end them and whatever they started."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in processes:
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """Within the block SIGTERM is KeyboardInterrupt, so that `finally` runs; only Python's main thread hears it."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
