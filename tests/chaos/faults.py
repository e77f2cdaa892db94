"""Faults of a running training: killed and stopped ranks, a full disk, lost connections and networks."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.trainers import Run

SHORT_S = (0.1, 1.0)
"""How long a fault lasts that a training should outlast."""


@dataclass
class Struck:
    """A fault that has struck: the ranks that it killed, and what ends it once the other ranks have ended."""

    killed: list[int] = field(default_factory=list)
    mend: Callable[[], None] = lambda: None
    after_s: float | None = None
    """Seconds after which `mend` is called in any case; None: when the other ranks have ended."""
    frozen: list[int] = field(default_factory=list)
    """Ranks that cannot end before `mend`."""


Strike = Callable[[Run, Path, random.Random], Struck]


def kill_one(run: Run, disk: Path, rng: random.Random) -> Struck:
    return _killed(run, [rng.randrange(run.ranks)])


def kill_all(run: Run, disk: Path, rng: random.Random) -> Struck:
    return _killed(run, list(range(run.ranks)))


def _killed(run: Run, ranks: list[int]) -> Struck:
    run.kill(ranks)
    return Struck(killed=ranks)


def stop_long(run: Run, disk: Path, rng: random.Random) -> Struck:
    """A rank stands still until the others have ended; then it goes on, alone."""
    rank = rng.randrange(run.ranks)
    run.kill([rank], signal.SIGSTOP)
    return Struck(mend=lambda: run.kill([rank], signal.SIGCONT), frozen=[rank])


def stop_short(run: Run, disk: Path, rng: random.Random) -> Struck:
    rank = rng.randrange(run.ranks)
    run.kill([rank], signal.SIGSTOP)
    return Struck(mend=lambda: run.kill([rank], signal.SIGCONT), after_s=rng.uniform(*SHORT_S), frozen=[rank])


def fill_disk(run: Run, disk: Path, rng: random.Random) -> Struck:
    """The file system of the checkpoints is full, for a while or to the end.

    Where they have no own file system, the size of files is limited.
    """
    after_s = rng.choice([None, rng.uniform(*SHORT_S)])
    if not disk.is_mount():
        return _limit_files(run, rng, after_s)
    ballast = disk / "ballast"
    usage = shutil.disk_usage(disk)
    with ballast.open("wb") as file, suppress(OSError):  # a checkpoint took the place
        os.posix_fallocate(file.fileno(), 0, max(usage.free - rng.choice([0, 4096, 20_000]), 1))
    return Struck(mend=lambda: ballast.unlink(missing_ok=True), after_s=after_s)


def _limit_files(run: Run, rng: random.Random, after_s: float | None) -> Struck:
    most = rng.choice([0, 4096, 20_000])

    def limit(value: int) -> None:
        for process in run.processes:
            if process.pid is not None and process.exitcode is None:
                _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (value, hard))

    limit(most)
    return Struck(mend=lambda: limit(resource.RLIM_INFINITY), after_s=after_s)


def cut_connection(run: Run, disk: Path, rng: random.Random) -> Struck:
    """One of the connections of a rank, or all of them, break."""
    pid = run.processes[rng.randrange(run.ranks)].pid
    ports = _ports(pid) if pid is not None else []
    for port in ports if rng.random() < 0.3 else ports and [rng.choice(ports)]:
        subprocess.run(["ss", "-K", "sport", "=", str(port)], capture_output=True, check=False)
    return Struck()


def _ports(pid: int) -> list[int]:
    """The local ports of a process's connections."""
    shown = subprocess.run(["ss", "-Htnp", "state", "established"], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in shown.splitlines() if f"pid={pid}," in line]
    return sorted({int(words[2].rpartition(":")[2]) for words in lines})


def network_down_long(run: Run, disk: Path, rng: random.Random) -> Struck:
    """The network is down until all ranks have ended."""
    _network("down")
    return Struck(mend=lambda: _network("up"))


def network_down_short(run: Run, disk: Path, rng: random.Random) -> Struck:
    _network("down")
    return Struck(mend=lambda: _network("up"), after_s=rng.uniform(*SHORT_S))


def _network(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


EVERYWHERE: dict[str, Strike] = {
    "SIGKILL of a rank": kill_one,
    "SIGKILL of all ranks": kill_all,
    "SIGSTOP of a rank, for good": stop_long,
    "SIGSTOP of a rank, for a moment": stop_short,
    "full disk": fill_disk,
}
"""Faults that need no privileges."""

IN_A_NAMESPACE: dict[str, Strike] = {
    "broken connection": cut_connection,
    "network down, for good": network_down_long,
    "network down, for a moment": network_down_short,
}
"""Faults that need a network namespace of this program's own."""
