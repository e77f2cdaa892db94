"""Run settings: a TOML file, a few flags over it, one checked object."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dessim.errors import FileError

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=10)]
SHIPPED = "ml100k"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(_Strict):
    """`source`: ml-100k, synthetic, or a path (Criteo TSV, .gz of it; RecBole's wheel or a folder with ml-100k.inter).

    `samples` is how many the synthetic source makes; a tenth each is for validation and test, so at least 10.
    """

    source: str = "ml-100k"
    split: Literal["random", "time"] = "random"
    samples: Annotated[int, Field(ge=10)] = 100_000


class TrainingSettings(_Strict):
    """`batch` is global. `steps` ends the run early, whatever the epoch."""

    batch: Positive = 1024
    epochs: Positive = 25
    patience: Positive = 2
    steps: Positive | None = None


class RowSettings(_Strict):
    """Row-wise Adagrad."""

    rate: Rate = 0.05
    eps: Annotated[float, Field(gt=0)] = 1e-8
    init_std: Annotated[float, Field(ge=0)] = 0.01


class DenseSettings(_Strict):
    """Adam."""

    rate: Rate = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class Settings(_Strict):
    """Everything a run depends on, besides where it runs."""

    schema_version: Literal[1] = 1
    model: str
    strategy: str = "des_all_reduce"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    dtype: Literal["float32", "float64"] = "float32"
    data: DataSettings = DataSettings()
    training: TrainingSettings = TrainingSettings()
    rows: RowSettings = RowSettings()
    dense: DenseSettings = DenseSettings()

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == "float64" else torch.float32


def load_settings(path: str | Path | None, overrides: Mapping[str, Any]) -> Settings:
    """Settings from a file (default: the shipped ml100k.toml) with flags over it, `{"training.batch": 512}`.

    Raises FileError naming the key.
    """
    if path is None:
        name: str | Path = f"{SHIPPED}.toml"
        text = files("des_ref").joinpath("configs", f"{SHIPPED}.toml").read_text("utf-8")
    else:
        name = path
        try:
            text = Path(path).read_text("utf-8")
        except OSError as error:
            raise FileError(path, "", f"cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise FileError(path, "", "is not UTF-8 text") from None
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileError(name, "", f"not TOML: {error}") from None
    for key, value in overrides.items():
        *sections, last = key.split(".")
        table = raw
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise FileError(name, section, "must be a table")
        table[last] = value
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        raise FileError(name, "", "; ".join(_problem(e) for e in error.errors())) from None


def _problem(error: Any) -> str:
    key = ".".join(map(str, error["loc"])) or "file"
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    return f"{key}: {error['msg']}, not {error['input']!r}" if error["type"] != "missing" else f"{key}: is missing"
