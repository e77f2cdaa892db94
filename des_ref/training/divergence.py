"""Ends a run at once when its loss is not finite, and saves the batch that caused it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from torch import Tensor

from des_ref.cli import RankError
from des_ref.comm import Comm
from des_ref.data.batch import Batch
from des_ref.progress import Progress
from dessim.files import atomic_path

NOT_FINITE = 3  # exit code: a check ran and failed


def check_finite(loss: Tensor, batch: Batch, progress: Progress, comm: Comm, folder: Path) -> None:
    """Raises RankError with exit code 3 if the loss is NaN or infinite.

    Writes this worker's samples into `folder` first: the arrays `ids`, `sample`, `field`, `labels` and `dense`, if any,
    of a Batch.
    """
    value = float(loss)
    if math.isfinite(value):
        return
    file = folder / f"diverged-step-{progress.steps}-rank-{comm.rank}.npz"
    try:
        with atomic_path(file) as temporary:
            arrays = {name: getattr(batch, name) for name in ("ids", "sample", "field", "labels", "dense")}
            np.savez(temporary, **{name: array.cpu() for name, array in arrays.items() if array is not None})
        where = f"its samples are in {file}"
    except OSError as error:
        where = f"its samples cannot be written to {file}: {error.strerror}"
    raise RankError(
        comm.rank,
        f"training diverged in epoch {progress.epochs + 1}, step {progress.steps}: the loss is {value}; {where}; "
        "lower optimizer.rows.rate or optimizer.dense.lr in the settings",
        NOT_FINITE,
    )
