"""Run one process per rank in the namespace of its NIC, with the environment that torchrun would set.

The first rank that fails ends the others, which would wait for it forever. However the run ends, also by Ctrl-C or
SIGTERM, no process of it remains.
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
from dessim.lab.forking import Fork, Forks, Program
from dessim.lab.layout import Layout
from dessim.processes import noticed

MASTER_PORT = 29500
"""torchrun's default; always free, because a lab's network is separate from the machine's."""
TIMED_OUT = 124
"""The exit code of coreutils' timeout(1)."""
_POLL_S = 0.02
_GRACE_S = 3.0

_Rank = subprocess.Popen[bytes] | Fork


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a run.

    `code` is 0, or the exit code of the first rank that failed, `rank`: 128 + the signal if it was killed. A run that
    timed out has code 124 and no rank. `logs` are the files with the output of each rank.
    """

    code: int
    rank: int | None
    logs: tuple[Path, ...]


def launch(
    layout: Layout,
    command: Sequence[str] | Program,
    logs: Path,
    *,
    ranks: int | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    echo: bool = False,
) -> Finished:
    """Run `command` on the first `ranks` ranks (default: all), with the output of rank i in `logs`/rank<i>.log.

    The ranks of a `Program` are forked from one process, so its modules are imported once and not by each rank. `env`
    is added to this process's environment. The run ends after `timeout` seconds. `echo` also prints the output of rank
    0 on stdout. Raises UsageError, and LabError if the process that ranks are forked from ends.
    """
    world = len(layout.ranks) if ranks is None else ranks
    if not command:
        raise UsageError("nothing to run; write the command after --, such as: dessim lab run -- python train.py")
    if not 1 <= world <= len(layout.ranks):
        raise UsageError(f"--ranks {world}: lab {layout.name} can run 1 to {len(layout.ranks)} ranks")
    logs.mkdir(parents=True, exist_ok=True)
    files = tuple(logs / f"rank{rank}.log" for rank in range(world))
    environments = [{**environment(layout, rank, world), **(env or {})} for rank in range(world)]
    processes: list[_Rank] = []
    interrupts = _Interrupts()
    with interrupts, _prepared(command, environments[0]) as prepared, files[0].open("wb+") as first_log:
        try:
            for rank, file in enumerate(files):
                # An interrupt between the start of a process and its entry in the list would leave it running.
                with interrupts.deferred():
                    processes.append(_start(layout, prepared, rank, environments[rank], file))
            deadline = time.monotonic() + timeout if timeout is not None else None
            code, failed = _wait(processes, deadline, first_log.fileno() if echo else None)
        finally:
            with interrupts.deferred():
                _end(processes)
    return Finished(code, failed, files)


def environment(layout: Layout, rank: int, world: int) -> dict[str, str]:
    """The environment of a rank in a run of `world` ranks, as torchrun would set it."""
    place = layout.ranks[rank]
    local_world_size = sum(other.node == place.node for other in layout.ranks[:world])
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(place.local),
        "LOCAL_WORLD_SIZE": str(local_world_size),
        "GROUP_RANK": str(place.node),
        "MASTER_ADDR": layout.ranks[0].address,
        "MASTER_PORT": str(MASTER_PORT),
        "GLOO_SOCKET_IFNAME": "e0",
        "OMP_NUM_THREADS": "1",
    }


@contextlib.contextmanager
def _prepared(command: Sequence[str] | Program, env: Mapping[str, str]) -> Iterator[Sequence[str] | Forks]:
    """The command, or the process that the ranks of a program are forked from, once it has imported the program."""
    if isinstance(command, Program):
        with Forks(command, env) as forks:
            forks.wait_until_ready()
            yield forks
    else:
        yield command


def _start(layout: Layout, command: Sequence[str] | Forks, rank: int, env: Mapping[str, str], log: Path) -> _Rank:
    space = layout.ranks[rank].space
    if isinstance(command, Forks):
        return command.start(space, env, log)
    with log.open("wb") as out:
        return subprocess.Popen(
            ["ip", "netns", "exec", space, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            start_new_session=True,
        )


def _wait(processes: Sequence[_Rank], deadline: float | None, echoed_file: int | None) -> tuple[int, int | None]:
    """Wait until all processes have succeeded, one has failed, or the deadline has passed.

    Returns the exit code of the run, and the rank that failed.
    """
    offset = 0
    while True:
        codes = [process.poll() for process in processes]
        if echoed_file is not None:
            offset = _echo(echoed_file, offset)
        for rank, code in enumerate(codes):
            if code:
                return (code if code > 0 else 128 - code), rank
        if all(code == 0 for code in codes):
            return 0, None
        if deadline is not None and time.monotonic() > deadline:
            return TIMED_OUT, None
        time.sleep(_POLL_S)


def _echo(file: int, offset: int) -> int:
    """Print a log from `offset` on; returns the offset of its end."""
    while more := os.pread(file, 1 << 16, offset):
        sys.stdout.write(more.decode(errors="replace"))
        offset += len(more)
    sys.stdout.flush()
    return offset


def _end(processes: Sequence[_Rank]) -> None:
    """Send SIGTERM to the processes that still run and, after a grace period, SIGKILL to all and their children."""
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


def _signal(process: _Rank, number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        if process.poll() is None:  # a rank that was just forked and leads no group yet
            os.kill(process.pid, number)


class _Interrupts:
    """While entered, SIGINT and SIGTERM raise KeyboardInterrupt, so that `finally` blocks run; `deferred` delays it.

    Only Python's main thread receives signals; in other threads nothing changes. An ignored SIGINT, as in a background
    job of a shell, stays ignored.
    """

    def __init__(self) -> None:
        self._deferring = False
        self._pending = False
        self._handlers: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if number == signal.SIGTERM or handler is not signal.SIG_IGN:
                    self._handlers[number] = handler
                    signal.signal(number, self._interrupt)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Raise KeyboardInterrupt only at the end of the block, if a signal has arrived in it."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        noticed(self._handlers.values())
        if not self._deferring:
            raise KeyboardInterrupt
        self._pending = True
