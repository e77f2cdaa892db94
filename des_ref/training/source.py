"""Opens the samples that the setting `data.source` names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from des_ref.comm import Comm, launched_rank
from des_ref.config import DataSettings
from des_ref.data import movielens
from des_ref.data.bad_rows import BadRows
from des_ref.data.batch import Source
from des_ref.data.criteo import CriteoFile
from des_ref.data.criteo_rows import Integers
from des_ref.data.movielens import DataUnavailable, open_movielens
from des_ref.data.synthetic import Zipf
from dessim.errors import FileError, UsageError
from dessim.workload.model import Model

BAD_ROWS = "bad-rows.tsv"


@dataclass(frozen=True, slots=True)
class Opened:
    """An open source.

    name             the data set, or the path of the file
    fallback_reason  why it is synthetic data instead of what was asked for; empty if it is not
    bad              rows of its file that were left out
    """

    source: Source
    name: str
    fallback_reason: str = ""
    bad: BadRows = field(default_factory=BadRows)

    def identity(self, settings: DataSettings) -> dict[str, Any]:
        """The values that identify the data in a checkpoint. The folder is not part of it, because a file may move."""
        return {"name": Path(self.name).name, "split": settings.split, "train_samples": self.source.train_samples}


def open_source(settings: DataSettings, model: Model, seed: int, comm: Comm, folder: Path) -> Opened:
    """The same samples on every rank. Every rank calls it.

    If ML-100K is not available, the samples are synthetic, and the reason is given. Bad rows of a Criteo file are
    listed in `folder`/bad-rows.tsv. Raises FileError for a bad file, UsageError when the model has another number of
    fields than the data.
    """
    if settings.source == "synthetic":
        return Opened(_synthetic(settings, model, seed), "synthetic")
    if settings.source == "ml-100k":
        check_fields(model, "ml-100k", len(movielens.FIELDS), "deepfm_ml100k")
        wheel, reason = _find_ml100k(comm)
        if wheel is None:
            return Opened(_synthetic(settings, model, seed), "synthetic", reason)
        return Opened(open_movielens(wheel, settings.split, seed), "ml-100k")
    path = Path(settings.source)
    if not path.exists():
        raise FileError(path, "", "no such file; --data takes ml-100k, synthetic, stream, or the path of a file")
    if path.suffix == ".whl" or path.is_dir():
        check_fields(model, path.name, len(movielens.FIELDS), "deepfm_ml100k")
        return Opened(open_movielens(path, settings.split, seed), "ml-100k")
    integers = Integers.of(model, path.name)
    bad = BadRows(settings.max_bad_rows, folder / BAD_ROWS if comm.rank == 0 else None)
    return Opened(CriteoFile(path, bad, integers), str(path), bad=bad)


def check_fields(model: Model, data: str, fields: int, suggested_model: str) -> None:
    """Raises UsageError for a model with dense features, or with another number of fields than the data."""
    if model.dense is not None:
        raise UsageError(
            f"model {model.name} has dense.features = {model.dense_features}, but {data} has no dense features; "
            f"try --model {suggested_model}"
        )
    if model.input.fields != fields:
        raise UsageError(
            f"model {model.name} has input.fields = {model.input.fields}, but {data} has {fields} fields; "
            f"try --model {suggested_model}"
        )


def _synthetic(settings: DataSettings, model: Model, seed: int) -> Source:
    return Zipf.of(model, seed).open(settings.samples)


def _find_ml100k(comm: Comm) -> tuple[Path | None, str]:
    """The wheel on this machine, or None and the reason.

    One rank per machine downloads it. All ranks agree: if one machine lacks it, all get None.
    """
    reason = "not on every machine"
    if launched_rank() == 0:
        try:
            movielens.find_or_download()
        except DataUnavailable as error:
            reason = error.problem
    comm.barrier()
    cached = movielens.cache_folder() / movielens.WHEEL
    missing = torch.tensor([0.0 if cached.is_file() else 1.0], device=comm.device)
    comm.all_reduce("data_missing", missing).wait()
    return (None, reason) if float(missing) else (cached, "")
