"""Checkpoints while training goes on.

    this thread   step ... step | snapshot | step ...              step | snapshot (waits, if the writer is still busy)
    the writer                             | files -> disk, digests | all ranks done? | manifest, rename, old ones go |

The writers of all ranks talk over a group of their own. A disk that is full (or gone) costs the checkpoint under way
and no earlier one: it is said in one line, training goes on, and the next one is tried. A run whose last checkpoint
was not written fails at its end.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from des_ref.checkpoint import folder as checkpoints
from des_ref.checkpoint.files import DENSE, parallel_checkpoint, write_dense, write_rows
from des_ref.checkpoint.folder import Written
from des_ref.checkpoint.state import Snapshot, take
from des_ref.cli import say
from des_ref.comm import Comm
from des_ref.progress import Progress
from des_ref.strategies.base import Strategy
from dessim.errors import DessimError

_NAME = "checkpoint"


class Writer:
    """Of one worker. `comm` is the training's; every worker makes one at the same point, and calls it alike."""

    def __init__(self, comm: Comm, folder: Path, every: int, keep: int, run: Mapping[str, Any]) -> None:
        self._rank, self._ranks, self._comm = comm.rank, comm.world_size, comm.on_cpu(_NAME)
        self._folder, self._every, self._keep, self._run = folder, every, keep, run
        parallel_checkpoint()  # found missing now, not at the first checkpoint
        self.stalls: list[float] = []  # seconds that each checkpoint held up training
        self._pool = ThreadPoolExecutor(1, _NAME)
        self._under_way: Future[str] | None = None
        self._problem = ""  # of the last one
        self._saved = -1  # step of the last one

    def due(self, step: int) -> bool:
        return step % self._every == 0

    def save(self, strategy: Strategy, progress: Progress) -> None:
        """Take a snapshot now and let it be written. Does nothing for a step that has been saved."""
        if progress.steps == self._saved:
            return
        start = time.perf_counter()
        self._wait()
        snapshot = take(strategy, self._rank, self._ranks)
        about = {"ranks": self._ranks, "run": dict(self._run), "progress": progress.to_json()}
        self._saved = progress.steps
        self._under_way = self._pool.submit(self._write, progress.steps, snapshot, about)
        self.stalls.append(time.perf_counter() - start)

    def finish(self) -> None:
        """Wait for the last one. Raises DessimError when it was not written."""
        self._wait()
        if self._problem:
            raise DessimError(f"the last checkpoint was not written: {self._problem}")

    def to_json(self) -> dict[str, Any]:
        """How many were begun, and for how many seconds training stood still for them."""
        stalls = self.stalls or [0.0]
        return {"count": len(self.stalls), "stall_s": {"mean": sum(stalls) / len(stalls), "max": max(stalls)}}

    def close(self) -> None:
        """Let the thread go; after a failed step it is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _wait(self) -> None:
        if self._under_way is not None:
            self._problem, self._under_way = self._under_way.result(), None

    def _write(self, step: int, snapshot: Snapshot, about: Mapping[str, Any]) -> str:
        """The writer's work; what went wrong, on every rank, empty where all is well."""
        draft = checkpoints.temporary(self._folder, step)
        written, problem = _try(lambda: self._files(draft, snapshot))
        mine = {"files": [asdict(w) for w in written or ()], "problem": problem}
        everyone = [json.loads(text) for text in self._comm.gather_text(_NAME, json.dumps(mine))]
        problem = next((part["problem"] for part in everyone if part["problem"]), "")
        if self._rank == 0 and not problem:
            files = [Written(**file) for part in everyone for file in part["files"]]
            _, problem = _try(lambda: checkpoints.commit(self._folder, step, about, files, self._keep))
        problem = self._comm.gather_text(_NAME, problem)[0]
        if self._rank == 0 and problem:
            shutil.rmtree(draft, ignore_errors=True)
            last = next((p.name for p in checkpoints.found(self._folder)), "none")
            say(f"checkpoint of step {step} was not written ({problem}); last good one: {last}; training goes on")
        return problem

    def _files(self, draft: Path, snapshot: Snapshot) -> list[Written]:
        draft.mkdir(parents=True, exist_ok=True)
        names = []
        if snapshot.rows_file is not None:
            write_rows(draft / snapshot.rows_file, snapshot.rows)
            names.append(snapshot.rows_file)
        if snapshot.dense is not None:
            write_dense(draft, snapshot.dense)
            names += [f"{DENSE}/{path.name}" for path in sorted((draft / DENSE).iterdir())]
        return [Written.of(draft, name) for name in names]


def _try(work: Callable[[], Any]) -> tuple[Any, str]:
    """The result, or why the disk did not let us."""
    try:
        return work(), ""
    except OSError as error:
        return None, error.strerror or str(error)
