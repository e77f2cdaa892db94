"""A training that faults strike, and what must hold after each."""

from __future__ import annotations

import ctypes
import json
import os
import random
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

from des_ref.checkpoint import folder as checkpoints
from tests.bench.kills import Case, children, difference, leftovers, parameters
from tests.bench.trainers import Run
from tests.chaos.faults import Strike, Struck

LIMIT_S = 90.0
"""How much longer than --timeout a rank may take to end; the machine may be busy."""
_POLL_S = 0.01
_PR_SET_CHILD_SUBREAPER = 36
NO_CHECKPOINTS = "ps_async"


class Wrong(Exception):
    """A check failed."""


def subreaper() -> None:
    """Become the parent of every process whose parent has ended, so that `strays` sees it."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def strays() -> list[int]:
    """Children of this program and of the server that forks ranks, besides that server."""
    servers: list[Any] = [forkserver._forkserver, resource_tracker._resource_tracker]  # type: ignore[attr-defined]
    known = [server._forkserver_pid if hasattr(server, "_forkserver_pid") else server._pid for server in servers]
    return [
        pid
        for parent in (os.getpid(), *filter(None, known))
        for pid in children(parent)
        if pid not in known and _runs(pid)
    ]


def _runs(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@dataclass
class Life:
    """A training of `steps` steps of a strategy on `ranks` ranks, with its checkpoints on `disk`."""

    folder: Path
    strategy: str
    ranks: int
    steps: int
    timeout: float
    disk: Path
    every: int = 2

    def __post_init__(self) -> None:
        self._case = Case(self.folder, self.strategy, self.steps, self.every, silence=self.timeout)
        self.has_finished = False
        self._said = 0
        self._others = frozenset(strays())

    @property
    def _keeps(self) -> bool:
        return self.strategy != NO_CHECKPOINTS

    @property
    def _kept(self) -> Path:
        return self.disk / "kept"

    @property
    def _output(self) -> Path:
        return self.folder / "struck.txt"

    def _start(self, **environment: str) -> Run:
        words = self._case.arguments("struck")
        if self._keeps:
            words[words.index("--checkpoint") + 1] = str(self._kept)
        else:
            at = words.index("--checkpoint")
            words[at : at + 3] = []
        return Run(self.ranks, words, self._output, environment)

    def _newest(self) -> int:
        kept = checkpoints.newest_first(self._kept)
        return int(kept[0].name.rpartition("-")[2]) if kept else 0

    def strike(self, fault: Strike, rng: random.Random) -> str:
        """Start or resume the training, strike at a random moment, and check how it ends. Raises Wrong."""
        self._said = self._output.stat().st_size if self._output.exists() else 0
        run = self._start()
        try:
            self._wait_for_a_moment(run, rng)
            struck = fault(run, self.disk, rng)
            codes = self._end(run, struck)
        finally:
            run.kill(range(run.ranks))
            for process in run.processes:
                process.join(LIMIT_S)
        self._check(codes, struck)
        self.has_finished = not any(codes)
        return "outlasted it" if not any(codes) else "killed" if len(struck.killed) == self.ranks else "one line"

    def meet_at_a_taken_port(self) -> str:
        """Start at a port where another program listens and says nothing. Raises Wrong unless every rank ends."""
        self._said = self._output.stat().st_size if self._output.exists() else 0
        with socket.create_server(("127.0.0.1", 0)) as other:
            codes = self._start(MASTER_PORT=str(other.getsockname()[1])).wait(self.timeout + LIMIT_S)
        if 0 in codes:
            raise Wrong(f"exit codes {codes} with another program at the port")
        self._check(codes, Struck())
        return "one line"

    def _wait_for_a_moment(self, run: Run, rng: random.Random) -> None:
        """In a third of the cases while the training starts; otherwise after a random step."""
        before = self._newest()
        if rng.random() < 0.3:
            time.sleep(rng.uniform(0, 1.5))
            return
        left = max((self.steps - before) // 2, 1)
        target = before + rng.randint(1, left)
        ends = time.monotonic() + (LIMIT_S if self._keeps else rng.uniform(0.5, 4))
        while self._newest() < target and not run.has_ended and time.monotonic() < ends:
            time.sleep(_POLL_S)
        time.sleep(rng.uniform(0, 0.05))

    def _end(self, run: Run, struck: Struck) -> list[int]:
        """Wait until every rank has ended by itself; return their exit codes. Raises Wrong."""
        started = time.monotonic()
        mended = False
        deadline = started + self.timeout + LIMIT_S
        while True:
            alive = [rank for rank, process in enumerate(run.processes) if process.exitcode is None]
            if not alive:
                break
            over = struck.after_s is not None and time.monotonic() - started > struck.after_s
            if not mended and (over or set(alive) <= set(struck.frozen)):
                struck.mend()
                mended = True
            if time.monotonic() > deadline:
                took = time.monotonic() - started
                raise Wrong(f"ranks {alive} still run {took:.0f} s after the fault:{self._tail()}")
            time.sleep(_POLL_S)
        if not mended:
            struck.mend()
        return [process.exitcode or 0 for process in run.processes]

    def _check(self, codes: list[int], struck: Struck) -> None:
        new = self._new()
        failed = [rank for rank, code in enumerate(codes) if code and rank not in struck.killed]
        lines = [line for line in new.splitlines() if "des_ref.train: error:" in line]
        if any(code not in (0, 1, -9) for code in codes) or any(codes[rank] == -9 for rank in failed):
            raise Wrong(f"exit codes {codes}:{self._tail()}")
        if "Traceback" in new or "terminate called" in new:
            raise Wrong(f"a traceback:{self._tail()}")
        if failed and not 1 <= len(lines) <= len(failed):
            raise Wrong(f"{len(lines)} lines of errors from {len(failed)} ranks that failed:{self._tail()}")
        for checkpoint in checkpoints.newest_first(self._kept):
            checkpoints.check(checkpoint)
        if left := set(strays()) - self._others:
            raise Wrong(f"processes {sorted(left)} are left")

    def _tail(self) -> str:
        return "".join(f"\n    | {line}" for line in self._new().splitlines()[-30:])

    def _new(self) -> str:
        """The output of the ranks since the last start."""
        return self._output.read_bytes()[self._said :].decode("utf-8", "replace") if self._output.exists() else ""

    def finish(self) -> str:
        """Train to the end and compare with a run that nothing disturbed. Raises Wrong."""
        if not self.has_finished:
            self._said = self._output.stat().st_size if self._output.exists() else 0
            codes = self._start().wait(LIMIT_S + self.timeout)
            if any(codes):
                raise Wrong(f"does not resume, exit codes {codes}:{self._tail()}")
        if not self._keeps:
            return "trained to the end"
        self._case.finish("undisturbed", self.ranks)
        whole = self._case.checkpoints("undisturbed")
        gap = difference(parameters(self._kept), parameters(whole))
        logs = [self._epochs(self._case.log(name)) for name in ("struck", "undisturbed")]
        if gap != 0 or logs[0] != logs[1]:
            raise Wrong(f"parameters differ by {gap:.1e} from those of an undisturbed run; epochs {logs}")
        if left := leftovers(self._kept):
            raise Wrong(f"{left} remain beside the checkpoints")
        return "equal to an undisturbed run"

    @staticmethod
    def _epochs(path: Path) -> list[tuple[int, float]]:
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [(line["epoch"], line["loss"]) for line in lines]

    def clean(self) -> None:
        """Give the file system back."""
        if self.disk.is_mount():
            subprocess.run(["umount", "--lazy", str(self.disk)], check=True)
