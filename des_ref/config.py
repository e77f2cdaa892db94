"""Run settings: a TOML file, a few flags over it, one checked object."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from des_ref.embedding.lifetime import Lifetime
from des_ref.embedding.optim import ROW_OPTIMIZERS, RowAdagrad, RowOptimizer
from des_ref.models.dense_optim import DenseOptimizer
from des_ref.strategies.base import Optimizers
from dessim.errors import FileError, UsageError
from dessim.workload.codecs import CodecConfig, parse_codecs
from dessim.workload.strategies import find_spec

Positive = Annotated[int, Field(gt=0)]
SHIPPED = "ml100k"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(_Strict):
    """`source`: ml-100k, synthetic, a path (Criteo TSV, .gz of it; RecBole's wheel or a folder with ml-100k.inter), or
    stream, which has settings of its own.

    `samples` is how many the synthetic source makes; a tenth each is for validation and test, so at least 10.
    Of a Criteo file, up to `max_bad_rows` that are not as they should be are left out.
    """

    source: str = "ml-100k"
    split: Literal["random", "time"] = "random"
    samples: Annotated[int, Field(ge=10)] = 100_000
    max_bad_rows: Annotated[int, Field(ge=0)] = 0


class StreamSettings(_Strict):
    """Of `data.source = "stream"`: rows without end. See docs/streaming.md.

    `inputs` have Criteo's format: files, named pipes, `-` for standard input; the last one is waited for to grow with
    `follow`. None: rows are made, by data/synthetic.py's law, and each id lives for `id_life` of them. At most `ahead`
    batches are read before they are trained on. Every `report_every` steps there is a report, which goes into `log`
    (JSON lines) and `tensorboard` (a folder) too.
    """

    inputs: tuple[str, ...] = ()
    follow: bool = False
    id_life: Positive | None = None
    ahead: Positive = 4
    report_every: Positive = 100
    log: str | None = None
    tensorboard: str | None = None

    @model_validator(mode="after")
    def _something_grows(self) -> StreamSettings:
        if self.follow and not self.inputs:
            raise ValueError("follow waits for an input to grow: name it in inputs (--input)")
        return self


class TrainingSettings(_Strict):
    """`batch` is global. `steps` ends the run early, whatever the epoch. `pipeline`: see des_ref/pipeline.py."""

    batch: Positive = 1024
    epochs: Positive = 25
    patience: Positive = 2
    steps: Positive | None = None
    pipeline: bool = True


class RowSettings(_Strict):
    """`init_std`: standard deviation of a new row's values. When an id gets and loses a row: embedding/lifetime.py.

    `count_batches`: which rows are hot (strategies with hot_rows) is counted in so many batches, before training.
    """

    init_std: Annotated[float, Field(ge=0)] = 0.01
    count_batches: Positive = 16
    admit_after: Annotated[int, Field(ge=1, lt=2**31)] = 1
    expire_after: Annotated[int, Field(ge=1, lt=2**30)] | None = None

    @property
    def lifetime(self) -> Lifetime:
        return Lifetime(self.admit_after, self.expire_after)


class DenseSettings(BaseModel):
    """Any of torch.optim: `name`, and its keyword arguments beside it, `lr = 1e-3`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "Adam"

    @model_validator(mode="after")
    def _torch_takes_it(self) -> DenseSettings:
        try:
            self.build()([torch.nn.Parameter(torch.zeros(1, 1))])
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    def build(self) -> DenseOptimizer:
        return DenseOptimizer(self.name, dict(self.model_extra or {}))


class OptimizerSettings(_Strict):
    """`rows.name` is one of des_ref.embedding.optim, with its settings beside it."""

    rows: Annotated[RowOptimizer, Field(discriminator="name")] = RowAdagrad()
    dense: DenseSettings = DenseSettings(lr=1e-3)


class WireSettings(_Strict):
    """What values travel as (dessim/workload/codecs.py), by what they are; `all`: whatever may travel so."""

    all: str | None = None
    activations: str | None = None
    gradients: str | None = None
    dense: str | None = None

    @model_validator(mode="after")
    def _there_are_such(self) -> WireSettings:
        try:
            _ = self.codes
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def codes(self) -> CodecConfig:
        """Raises UsageError."""
        own = {key: form for key, form in self.model_dump(exclude={"all"}).items() if form is not None}
        if self.all is None:
            return CodecConfig.of(own)
        if own:
            raise UsageError(f"all = {self.all!r} is of all buffers: leave it out, or {', '.join(own)}")
        return parse_codecs(self.all)


class CheckpointSettings(_Strict):
    """Every so many steps and at the end into `folder` (none: not at all); the last `keep` stay."""

    folder: str | None = None
    every: Positive = 1000
    keep: Positive = 3


class ServerSettings(_Strict):
    """Of ps_async: the last `count` processes serve. A worker may be `staleness` steps ahead of the slowest.

    A server that hears nothing for `patience_s`, and a worker whose message takes longer, give up.
    """

    count: Positive = 1
    staleness: Annotated[int, Field(ge=0)] = 4
    patience_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0


class Settings(_Strict):
    """Everything a run depends on, besides where it runs."""

    schema_version: Literal[1] = 1
    model: str
    strategy: str = "des_all_reduce"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    dtype: Literal["float32", "float64"] = "float32"
    data: DataSettings = DataSettings()
    stream: StreamSettings = StreamSettings()
    training: TrainingSettings = TrainingSettings()
    rows: RowSettings = RowSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    servers: ServerSettings = ServerSettings()
    wire: WireSettings = WireSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0  # that a worker may be silent before the others give up

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == "float64" else torch.float32

    def folder(self, log: Path | None) -> Path:
        """Where a run leaves what it was not asked for: that of its checkpoints, else of its log, else here."""
        return Path(self.checkpoint.folder or (log.parent if log is not None else "."))

    @property
    def is_stream(self) -> bool:
        return self.data.source == "stream"

    @property
    def optimizers(self) -> Optimizers:
        return Optimizers(self.optimizer.rows, self.optimizer.dense.build(), self.rows.init_std, self.rows.lifetime)

    @field_validator("rows")
    @classmethod
    def _steps_are_of_all_workers(cls, rows: RowSettings, info: ValidationInfo) -> RowSettings:
        spec = find_spec(str(info.data.get("strategy")))
        if spec is not None and not spec.synchronous and rows.lifetime != Lifetime():
            raise ValueError("admit_after and expire_after count steps of all workers together: ps_sync has them")
        return rows


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
    path = [str(part) for part in error["loc"]]
    if path[:2] == ["optimizer", "rows"]:
        path[2:3] = []  # pydantic puts the optimizer's name there
    key = ".".join(path) or "file"
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{key}: unknown key"
    if error["type"].startswith("union_tag"):
        found = error["ctx"].get("tag")
        what = "is missing" if found is None else f"there is no {found!r}"
        return f"{key}.name: {what}; use {', '.join(ROW_OPTIMIZERS)}"
    if error["type"] == "value_error":
        return f"{key}: {error['ctx']['error']}"
    return f"{key}: {error['msg']}, not {error['input']!r}" if error["type"] != "missing" else f"{key}: is missing"
