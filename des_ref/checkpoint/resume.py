"""From the command line to a run that resumes from a checkpoint. Rank 0 chooses it; all ranks get the same answer."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from des_ref.checkpoint import folder as checkpoints
from des_ref.checkpoint.state import check_identity, restore
from des_ref.cli import say
from des_ref.comm import Comm
from des_ref.progress import Progress
from des_ref.strategies.base import Strategy
from dessim import locks
from dessim.errors import DessimError, FileError, UsageError

AUTO = "auto"
P = TypeVar("P", bound=Progress)


@contextmanager
def chosen(folder: Path | None, resume: str | None, comm: Comm) -> Iterator[Path | None]:
    """The checkpoint to resume from, the same on every rank; None for a run from the start. Every rank calls it.

    `resume` is a checkpoint, a folder of them (its newest good one), `auto` (the newest good one of `folder`, if it has
    any), or None. A process that torchrun has restarted resumes from the run's own last checkpoint in any case. Until
    the end of the block no other run may write checkpoints into `folder`, and one that does already is an error.
    Raises DessimError with the reason, the same on every rank.
    """

    def prepare_and_choose() -> str:
        if folder is not None:
            # Every rank writes checkpoints; check now and not at the first one.
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        if comm.rank:
            return ""
        if folder is not None:
            locks.take(folder / checkpoints.LOCK, str(folder))
            checkpoints.clean(folder)
        return str(_choose(folder, resume, locks.is_restart()) or "")

    try:
        answer = on_all_ranks(prepare_and_choose, folder or "", comm)[0]
        yield Path(answer) if answer else None
    finally:
        if folder is not None and comm.rank == 0:
            locks.release(folder / checkpoints.LOCK)


def restore_run(
    strategy: Strategy, checkpoint: Path, run: Mapping[str, Any], comm: Comm, kind: type[P] = Progress
) -> P:
    """Restore a strategy that has not trained yet from a checkpoint, and return its progress, a `kind`.

    `run` is the identity of the run (state.identity), which must match the checkpoint's. Every rank calls it. Raises
    DessimError with the reason, the same on every rank.
    """
    restored: list[P] = []

    def load() -> str:
        manifest = checkpoints.read_manifest(checkpoint)
        check_identity(checkpoint, manifest["run"], dict(run))
        try:
            restore(strategy, checkpoint, manifest, comm.rank, comm.world_size)
            restored.append(kind.from_json(manifest["progress"]))
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError) as error:
            problem = f"its files do not hold the state of such a run: {type(error).__name__}: {error}"
            raise FileError(checkpoint, "", problem) from None
        return ""

    on_all_ranks(load, checkpoint, comm)
    return restored[0]


def on_all_ranks(work: Callable[[], str], where: str | Path, comm: Comm) -> list[str]:
    """Call `work` on every rank, and return what it returned on each, [world_size].

    If it fails on some ranks, every rank raises DessimError: its own failure, or that of the first rank that failed.
    `where` is the file or folder that an OSError without a file name is attributed to.
    """
    answer = ""
    problem: DessimError | None = None
    try:
        answer = work()
    except DessimError as error:
        problem = error
    except OSError as error:
        problem = FileError(error.filename or where, "", f"cannot be used: {error.strerror or error}")
    own = {"answer": answer, "problem": None if problem is None else str(problem)}
    all_ranks = [json.loads(text) for text in comm.gather_text("resume", json.dumps(own))]
    if problem is not None:
        raise problem
    first_problem = next((rank["problem"] for rank in all_ranks if rank["problem"] is not None), None)
    if first_problem is not None:
        raise DessimError(first_problem)
    return [rank["answer"] for rank in all_ranks]


def _choose(folder: Path | None, resume: str | None, restart: bool) -> Path | None:
    if resume == AUTO and folder is None:
        raise UsageError(
            "--resume without a folder needs the run's own checkpoints: give their folder with --checkpoint"
        )
    own = checkpoints.newest_first(folder) if folder is not None else []
    if folder is not None and own and (restart or resume == AUTO):
        return _newest_good(folder, own)
    if resume is not None and resume != AUTO:
        return _named(Path(resume))
    if own and resume is None:
        problem = f"{folder} already holds checkpoints, the last one {own[0].name}"
        raise UsageError(f"{problem}: resume from it with --resume, or name another folder")
    if folder is not None and (restart or resume == AUTO):
        say(f"no checkpoint in {folder} yet: training from the start")
    return None


def _newest_good(folder: Path, own: list[Path]) -> Path:
    """The first checkpoint of `own`, newest first, that is whole. Reports the damaged ones before it."""
    for checkpoint in own:
        try:
            checkpoints.check(checkpoint)
        except FileError as error:
            say(f"{checkpoint.name} is refused: {error}")
            continue
        say(f"resuming from {checkpoint}")
        return checkpoint
    problem = f"none of its {len(own)} checkpoints is whole"
    raise FileError(folder, "", f"{problem}: see above, or start again in another folder")


def _named(path: Path) -> Path:
    """The checkpoint `path`, or the newest good one in the folder `path`. Raises FileError."""
    own = checkpoints.newest_first(path)
    if own:
        return _newest_good(path, own)
    if not path.is_dir():
        raise FileError(path, "", "no such folder; --resume takes a checkpoint or a folder of checkpoints")
    checkpoints.check(path)
    say(f"resuming from {path}")
    return path
