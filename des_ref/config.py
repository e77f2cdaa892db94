"""Run settings: a TOML file with command-line values over it, checked as one object."""

from __future__ import annotations

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
from des_ref.strategies.planned import PlanSettings
from dessim.errors import FileError, UsageError
from dessim.files import parse_toml, read_toml
from dessim.workload.codecs import CodecConfig, parse_codecs
from dessim.workload.composed import TablePlan
from dessim.workload.id_logs.in_model import model_with_ids
from dessim.workload.model import Model
from dessim.workload.strategies import find_spec, spec_of

Positive = Annotated[int, Field(gt=0)]
SHIPPED = "ml100k"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(_Strict):
    """The source of the samples.

    source        ml-100k, synthetic, stream (which has its own settings), or a path: a Criteo TSV file, also .gz;
                  RecBole's wheel; a folder with ml-100k.inter
    samples       how many the synthetic source generates; at least 10, because validation and test get a tenth each
    max_bad_rows  how many malformed rows of a Criteo file may be left out
    """

    source: str = "ml-100k"
    split: Literal["random", "time"] = "random"
    samples: Annotated[int, Field(ge=10)] = 100_000
    max_bad_rows: Annotated[int, Field(ge=0)] = 0


class StreamSettings(_Strict):
    """Settings of `data.source = "stream"`, an endless sequence of rows. See docs/streaming.md.

    inputs        files, named pipes, or `-` for standard input, in Criteo's format; empty: rows are generated with the
                  frequencies of data/synthetic.py
    follow        wait for the last input to grow
    id_life       rows for which each generated id lives; None: for ever
    ahead         how many batches may be read before they are trained on
    report_every  steps between reports
    log           file that reports are also written to, as JSON lines
    tensorboard   folder that reports are also written to, as TensorBoard events
    """

    inputs: tuple[str, ...] = ()
    follow: bool = False
    id_life: Positive | None = None
    ahead: Positive = 4
    report_every: Positive = 100
    log: str | None = None
    tensorboard: str | None = None

    @model_validator(mode="after")
    def _follow_needs_an_input(self) -> StreamSettings:
        if self.follow and not self.inputs:
            raise ValueError("follow waits for an input to grow: name it in inputs (--input)")
        return self


class TrainingSettings(_Strict):
    """The loop. `batch` is global; `steps` limits the run in addition to `epochs`; `pipeline`: see pipeline.py."""

    batch: Positive = 1024
    epochs: Positive = 25
    patience: Positive = 2
    steps: Positive | None = None
    pipeline: bool = True


class RowSettings(_Strict):
    """Rows of the embedding tables.

    init_std                   standard deviation of a new row's values
    count_batches              batches in which ids are counted before training, to find hot rows (option hot_rows)
    admit_after, expire_after  when an id gets and loses its row: embedding/lifetime.py
    """

    init_std: Annotated[float, Field(ge=0)] = 0.01
    count_batches: Positive = 16
    admit_after: Annotated[int, Field(ge=1, lt=2**31)] = 1
    expire_after: Annotated[int, Field(ge=1, lt=2**30)] | None = None

    @property
    def lifetime(self) -> Lifetime:
        return Lifetime(self.admit_after, self.expire_after)


class DenseSettings(BaseModel):
    """An optimizer of torch.optim: `name`, and its keyword arguments beside it, such as `lr = 1e-3`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "Adam"

    @model_validator(mode="after")
    def _torch_accepts_it(self) -> DenseSettings:
        try:
            self.build()([torch.nn.Parameter(torch.zeros(1, 1))])
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    def build(self) -> DenseOptimizer:
        return DenseOptimizer(self.name, dict(self.model_extra or {}))


class OptimizerSettings(_Strict):
    """`rows` is an optimizer of des_ref.embedding.optim, chosen by `rows.name`; `dense` is one of torch.optim."""

    rows: Annotated[RowOptimizer, Field(discriminator="name")] = RowAdagrad()
    # Not validated, because torch imports its compiler for the first optimizer, which takes seconds.
    dense: DenseSettings = DenseSettings.model_construct(lr=1e-3)


class WireSettings(_Strict):
    """How values are encoded on the wire (dessim/workload/codecs.py), by kind of value.

    `all` applies to every kind that a codec allows, and excludes the other keys.
    """

    all: str | None = None
    activations: str | None = None
    gradients: str | None = None
    dense: str | None = None

    @model_validator(mode="after")
    def _codecs_exist(self) -> WireSettings:
        try:
            _ = self.codes
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def codes(self) -> CodecConfig:
        """The codec of each kind of value. Raises UsageError."""
        by_kind = {key: form for key, form in self.model_dump(exclude={"all"}).items() if form is not None}
        if self.all is None:
            return CodecConfig.of(by_kind)
        if by_kind:
            raise UsageError(f"all = {self.all!r} applies to all buffers: leave it out, or {', '.join(by_kind)}")
        return parse_codecs(self.all)


class CheckpointSettings(_Strict):
    """A checkpoint every `every` steps and at the end, in `folder` (None: no checkpoints); the last `keep` are kept."""

    folder: str | None = None
    every: Positive = 1000
    keep: Positive = 3


class ServerSettings(_Strict):
    """Parameter servers of ps_async.

    count       processes that serve; they are the last ones
    staleness   steps by which a worker may be ahead of the slowest worker
    patience_s  a server that hears nothing for this long, or a worker whose message takes longer, ends the run
    """

    count: Positive = 1
    staleness: Annotated[int, Field(ge=0)] = 4
    patience_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0


class Settings(_Strict):
    """Everything that the result of a run depends on, except the machines it runs on.

    `ids`: a file of `dessim ids`, whose laws replace those of the model's tables.
    `timeout_s`: a worker that is silent for this long ends the run.
    """

    schema_version: Literal[1] = 1
    model: str
    ids: str | None = None
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
    plan: PlanSettings | None = None
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0

    @property
    def tables(self) -> tuple[TablePlan, ...]:
        """How each table is trained, where strategies are combined."""
        return self.plan.tables if self.plan is not None else ()

    def load_model(self) -> Model:
        """The model to train. Raises ModelError, FileError."""
        return model_with_ids(self.model, self.ids).trained_by(self.optimizer.rows.name)

    @property
    def replicas(self) -> int:
        """The number of replicas of the tables, where strategies are combined."""
        return self.plan.replicas if self.plan is not None else 1

    @property
    def has_server_processes(self) -> bool:
        """Whether some processes are parameter servers, whose workers do not step together."""
        return not self.tables and spec_of(self.strategy).dedicated_servers

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == "float64" else torch.float32

    def folder(self, log: Path | None) -> Path:
        """The folder of files that no option names: that of the checkpoints, else of the log, else the current one."""
        return Path(self.checkpoint.folder or (log.parent if log is not None else "."))

    @property
    def is_stream(self) -> bool:
        return self.data.source == "stream"

    @property
    def optimizers(self) -> Optimizers:
        return Optimizers(self.optimizer.rows, self.optimizer.dense.build(), self.rows.init_std, self.rows.lifetime)

    @field_validator("rows")
    @classmethod
    def _lifetimes_need_common_steps(cls, rows: RowSettings, info: ValidationInfo) -> RowSettings:
        spec = find_spec(str(info.data.get("strategy")))
        if spec is not None and not spec.synchronous and rows.lifetime != Lifetime():
            raise ValueError("admit_after and expire_after count steps that all workers take together: use ps_sync")
        return rows


def load_settings(path: str | Path | None, overrides: Mapping[str, Any]) -> Settings:
    """Settings from a file (None: the shipped ml100k.toml), with values over it such as `{"training.batch": 512}`.

    Raises FileError, which names the key.
    """
    name: str | Path = path if path is not None else f"{SHIPPED}.toml"
    raw = read_toml(Path(path)) if path is not None else parse_toml(_shipped())
    if "plan" in raw:
        raise FileError(name, "plan", "is no setting: name the plan file with --plan")
    for key, value in overrides.items():
        _override(raw, key, value, name)
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        raise FileError(name, "", "; ".join(_problem(e) for e in error.errors())) from None


def _shipped() -> str:
    return files("des_ref").joinpath("configs", f"{SHIPPED}.toml").read_text("utf-8")


def _override(raw: dict[str, Any], key: str, value: Any, name: str | Path) -> None:
    """Set `key`, such as `training.batch`, in the tables of `raw`. Raises FileError where a section is no table."""
    *sections, last = key.split(".")
    table = raw
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise FileError(name, section, "must be a table")
    table[last] = value


def _problem(error: Any) -> str:
    """One of pydantic's errors as `key: what is wrong`."""
    path = [str(part) for part in error["loc"]]
    if path[:2] == ["optimizer", "rows"]:
        path[2:3] = []  # pydantic inserts the optimizer's name here
    key = ".".join(path) or "file"
    kind = error["type"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{key}: unknown key"
    if kind == "missing":
        return f"{key}: is missing"
    if kind == "value_error":
        return f"{key}: {error['ctx']['error']}"
    if kind.startswith("union_tag"):
        tag = error["ctx"].get("tag")
        problem = "is missing" if tag is None else f"there is no {tag!r}"
        return f"{key}.name: {problem}; use {', '.join(ROW_OPTIMIZERS)}"
    return f"{key}: {error['msg']}, not {error['input']!r}"
