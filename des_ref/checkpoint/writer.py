"""Writes checkpoints while training continues.

    this thread   step ... step | snapshot | step ...              step | snapshot (waits, if the writer is still busy)
    the writer                             | files -> disk, digests | all ranks done? | manifest, rename, remove old |

The writers of all ranks talk over their own process group. If the disk is full or gone, the checkpoint being written is
lost and no earlier one: the failure is reported in one line, training continues, and the next checkpoint is tried. A
run whose last checkpoint could not be written fails at its end.
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
from des_ref.checkpoint.files import DENSE, distributed_checkpoint, write_dense, write_rows
from des_ref.checkpoint.folder import Written
from des_ref.checkpoint.state import Snapshot, take
from des_ref.cli import say
from des_ref.comm import Comm
from des_ref.config import CheckpointSettings
from des_ref.progress import Progress
from des_ref.strategies.base import Strategy
from dessim.errors import DessimError

_NAME = "checkpoint"


class Writer:
    """One worker's writer. Every worker creates one at the same point of the program and makes the same calls.

    comm         the training's group; the writer gets its own one
    every, keep  steps between checkpoints, and how many to keep
    run          identity of the run (state.identity)
    """

    def __init__(self, comm: Comm, folder: Path, every: int, keep: int, run: Mapping[str, Any]) -> None:
        self._rank = comm.rank
        self._ranks = comm.world_size
        self._comm = comm.on_cpu(_NAME)
        self._folder = folder
        self._every = every
        self._keep = keep
        self._run = run
        distributed_checkpoint()  # raises now, rather than at the first checkpoint, if torch is too old
        self.stalls: list[float] = []  # seconds for which each checkpoint held up training
        self._pool = ThreadPoolExecutor(1, _NAME)
        self._in_progress: Future[str] | None = None
        self._problem = ""  # why the last checkpoint was not written
        self._saved_step = -1  # the last step that was passed to `save`

    @classmethod
    def of(cls, settings: CheckpointSettings, comm: Comm, run: Mapping[str, Any]) -> Writer | None:
        """A writer as the settings say; None where they ask for no checkpoints."""
        if not settings.folder:
            return None
        return cls(comm, Path(settings.folder), settings.every, settings.keep, run)

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after a step."""
        return step % self._every == 0

    def save(self, strategy: Strategy, progress: Progress) -> None:
        """Take a snapshot and write it in the background. Does nothing if the step has been saved already."""
        if progress.steps == self._saved_step:
            return
        started_at = time.perf_counter()
        self._wait()
        snapshot = take(strategy, self._rank, self._ranks)
        about = {"ranks": self._ranks, "run": dict(self._run), "progress": progress.to_json()}
        self._saved_step = progress.steps
        self._in_progress = self._pool.submit(self._write, progress.steps, snapshot, about)
        self.stalls.append(time.perf_counter() - started_at)

    def finish(self) -> None:
        """Wait for the last checkpoint. Raises DessimError if it was not written."""
        self._wait()
        if self._problem:
            raise DessimError(f"the last checkpoint was not written: {self._problem}")

    def to_json(self) -> dict[str, Any]:
        """How many checkpoints were begun, and for how many seconds training waited for each: mean and maximum."""
        stalls = self.stalls or [0.0]
        return {"count": len(self.stalls), "stall_s": {"mean": sum(stalls) / len(stalls), "max": max(stalls)}}

    def close(self) -> None:
        """Release the thread without waiting for it, which matters after a failed step."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _wait(self) -> None:
        if self._in_progress is not None:
            self._problem = self._in_progress.result()
            self._in_progress = None

    def _write(self, step: int, snapshot: Snapshot, about: Mapping[str, Any]) -> str:
        """Runs in the writer's thread. Returns what went wrong, the same on every rank; empty on success."""
        draft = checkpoints.temporary(self._folder, step)
        written, problem = _try(lambda: self._write_files(draft, snapshot))
        own = {"files": [asdict(w) for w in written or ()], "problem": problem}
        all_ranks = [json.loads(text) for text in self._comm.gather_text(_NAME, json.dumps(own))]
        problem = next((rank["problem"] for rank in all_ranks if rank["problem"]), "")
        if self._rank == 0 and not problem:
            files = [Written(**file) for rank in all_ranks for file in rank["files"]]
            _, problem = _try(lambda: checkpoints.commit(self._folder, step, about, files, self._keep))
        problem = self._comm.gather_text(_NAME, problem)[0]
        if self._rank == 0 and problem:
            shutil.rmtree(draft, ignore_errors=True)
            last = next((p.name for p in checkpoints.newest_first(self._folder)), "none")
            say(f"checkpoint of step {step} was not written ({problem}); last good one: {last}; training continues")
        return problem

    def _write_files(self, draft: Path, snapshot: Snapshot) -> list[Written]:
        """Write this rank's files of a checkpoint. Raises OSError."""
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
    """The result and an empty string, or None and why the disk refused."""
    try:
        return work(), ""
    except OSError as error:
        return None, error.strerror or str(error)
