"""From the command line to a run that goes on where a checkpoint is. Rank 0 looks and decides; all hear of it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from des_ref.checkpoint import folder as checkpoints
from des_ref.checkpoint.state import check_identity, restore
from des_ref.cli import say
from des_ref.comm import Comm
from des_ref.progress import Progress
from des_ref.strategies.base import Strategy
from dessim.errors import DessimError, FileError, UsageError

AUTO = "auto"
P = TypeVar("P", bound=Progress)


def choose(folder: Path | None, resume: str | None, comm: Comm) -> Path | None:
    """The checkpoint to go on from, on every rank; None for a run from the start.

    `resume` is a checkpoint, a folder of them (the newest good one), `auto` (the newest good one of `folder`, if there
    is any), or None. A run that torchrun has started again goes on from its own last checkpoint whatever `resume` says.
    Raises DessimError with the reason, the same on every rank.
    """

    def look() -> str:
        if folder is not None:
            # Each rank writes: better found out now than at the first checkpoint.
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        if comm.rank:
            return ""
        if folder is not None:
            checkpoints.clean(folder)
        return str(_choose(folder, resume, is_restart()) or "")

    chosen = together(look, folder or "", comm)[0]
    return Path(chosen) if chosen else None


def go_on(strategy: Strategy, checkpoint: Path, run: Mapping[str, Any], comm: Comm, kind: type[P] = Progress) -> P:
    """Restore a strategy that has not trained yet, for a run with this identity; how far it is then.

    Raises DessimError with the reason, the same on every rank.
    """
    manifest: dict[str, Any] = {}

    def load() -> str:
        manifest.update(checkpoints.read_manifest(checkpoint))
        check_identity(checkpoint, manifest["run"], dict(run))
        restore(strategy, checkpoint, manifest, comm.rank, comm.world_size)
        return ""

    together(load, checkpoint, comm)
    return kind.from_json(manifest["progress"])


def is_restart() -> bool:
    """Whether torchrun has started this process in place of one that failed (`--max-restarts`)."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def together(work: Callable[[], str], where: str | Path, comm: Comm) -> list[str]:
    """What `work` says on each rank; when it fails on any, the first rank's failure is raised on all (DessimError).

    `where`: the file or folder to blame for an OSError that names none.
    """
    said, problem = "", None
    try:
        said = work()
    except DessimError as error:
        problem = error
    except OSError as error:
        problem = FileError(error.filename or where, "", f"cannot be used: {error.strerror or error}")
    mine = {"said": said, "problem": None if problem is None else str(problem)}
    everyone = [json.loads(text) for text in comm.gather_text("resume", json.dumps(mine))]
    if problem is not None:
        raise problem
    others = next((part["problem"] for part in everyone if part["problem"] is not None), None)
    if others is not None:
        raise DessimError(others)
    return [part["said"] for part in everyone]


def _choose(folder: Path | None, resume: str | None, restart: bool) -> Path | None:
    if resume == AUTO and folder is None:
        raise UsageError("--resume auto goes on from the run's own checkpoints: give their folder with --checkpoint")
    own = checkpoints.found(folder) if folder is not None else []
    if folder is not None and own and (restart or resume == AUTO):
        return _newest_good(folder, own)
    if resume is not None and resume != AUTO:
        return _named(Path(resume))
    if own and resume is None:
        what = f"{folder} holds checkpoints, the last {own[0].name}"
        raise UsageError(f"{what}: go on from it with --resume, or name another folder")
    if folder is not None and (restart or resume == AUTO):
        say(f"no checkpoint in {folder} yet: from the start")
    return None


def _newest_good(folder: Path, own: list[Path]) -> Path:
    for checkpoint in own:
        try:
            checkpoints.check(checkpoint)
        except FileError as error:
            say(f"{checkpoint.name} is refused: {error}")
            continue
        say(f"resuming from {checkpoint}")
        return checkpoint
    many = f"none of its {len(own)} checkpoints is whole"
    raise FileError(folder, "", f"{many}: see above, or start anew in another folder")


def _named(path: Path) -> Path:
    own = checkpoints.found(path)
    if own:
        return _newest_good(path, own)
    if not path.is_dir():
        raise FileError(path, "", "no such folder; --resume takes a checkpoint, a folder of them, or auto")
    checkpoints.check(path)
    say(f"resuming from {path}")
    return path
