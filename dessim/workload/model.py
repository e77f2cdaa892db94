"""A click-through-rate model as sizes: the one file that drives trainer and simulator alike.

    schema_version = 1
    name = "deepfm"
    [input]
    fields = 39              # F
    ids_per_sample = 39      # m, the mean over samples
    batch_per_worker = 4096
    vocabulary = 33762577    # different ids in the data
    skew = 1.05              # Zipf exponent of their frequency
    [embedding]
    width = 16               # D
    optimizer_slots = 2      # O, floats of optimizer state a row; default: the trainer's row-wise Adagrad
    [[operators]]
    kind = "mlp"             # lr | fm | mlp
    widths = [400, 400, 400] # H1 ...

Symbols that formulas use:

    N  world size                          m  ids a sample, mean
    B  samples in the global batch         u  different ids among one worker's B/N samples
    F  fields                              U  different ids in the global batch
    D  embedding width                     q  (sample, field) pairs a sample with an id on one worker (hash placement)
    W  floats a row (D, +1 with lr)        k  bytes of an id (8)
    H1 width of the first FC layer         c  bytes of an id's (sample, field) coordinate or length (4)
    A  multiply-adds a sample above FC1    s  bytes of a value (4)
    P  parameters of the dense tail        Z  activations a sample of the dense tail
    V  rows of all tables: the vocabulary  O  floats of optimizer state a row
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dessim.errors import ModelError
from dessim.workload.ids import expected_unique

ID_BYTES = 8  # 64-bit feature ids
COORDINATE_BYTES = 4  # an int32 beside each id
VALUE_BYTES = 4  # float32 on the wire

Positive = Annotated[int, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(_Strict):
    """What a batch looks like."""

    fields: Positive
    ids_per_sample: Annotated[float, Field(gt=0)]
    batch_per_worker: Positive = 4096
    vocabulary: Annotated[float, Field(ge=1)] = 1e8
    skew: Annotated[float, Field(ge=0, le=4)] = 1.05

    @model_validator(mode="after")
    def _few_enough(self) -> Input:
        if self.ids_per_sample > 1e6:
            raise ValueError("ids_per_sample above 1e6 is not a sample")
        return self


class Embedding(_Strict):
    """One row a feature id. `optimizer_slots`: floats of optimizer state a row; None: row-wise Adagrad's."""

    width: Positive
    optimizer_slots: Annotated[int, Field(ge=0)] | None = None


class OperatorSpec(_Strict):
    """One weights-rich operator; the model's logit is their sum."""

    kind: Literal["lr", "fm", "mlp"]
    widths: tuple[Positive, ...] = ()
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _widths_only_for_mlp(self) -> OperatorSpec:
        if (self.kind == "mlp") != bool(self.widths):
            raise ValueError('an "mlp" needs widths = [...], and only an "mlp" has them')
        if self.dropout and self.kind != "mlp":
            raise ValueError('dropout belongs to an "mlp"')
        return self


class Model(_Strict):
    """A model file. `symbols` turns it into the numbers formulas need."""

    schema_version: Literal[1]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    input: Input
    embedding: Embedding
    operators: Annotated[tuple[OperatorSpec, ...], Field(min_length=1)]

    @field_validator("operators")
    @classmethod
    def _each_kind_once(cls, operators: tuple[OperatorSpec, ...]) -> tuple[OperatorSpec, ...]:
        kinds = [o.kind for o in operators]
        if len(set(kinds)) != len(kinds):
            raise ValueError("each operator kind at most once")
        return operators

    @property
    def kinds(self) -> tuple[str, ...]:
        """Operator kinds in the order of the reduced buffer: lr, fm, mlp."""
        present = {o.kind for o in self.operators}
        return tuple(kind for kind in ("lr", "fm", "mlp") if kind in present)

    @property
    def mlp_widths(self) -> tuple[int, ...]:
        """Hidden widths H1, H2, ...; empty without an mlp."""
        return next((o.widths for o in self.operators if o.kind == "mlp"), ())

    @property
    def dropout(self) -> float:
        return next((o.dropout for o in self.operators if o.kind == "mlp"), 0.0)

    @property
    def row_width(self) -> int:
        """Floats a row: the embedding, and the linear weight beside it when the model has one."""
        return self.embedding.width + ("lr" in self.kinds)

    @property
    def row_slots(self) -> int:
        """Floats of optimizer state a row; row-wise Adagrad keeps one for the embedding, one for the linear weight."""
        slots = self.embedding.optimizer_slots
        return 1 + ("lr" in self.kinds) if slots is None else slots

    def symbols(self, world_size: int, batch: float | None = None, unique: Any = None) -> dict[str, float]:
        """Values of all symbols for a job of `world_size` workers and a global batch of `batch` samples.

        `batch` defaults to batch_per_worker * world_size. `unique(draws)` says how many different ids a number of
        draws holds; it defaults to the Zipf model of the file.
        """
        n, f, m = float(world_size), float(self.input.fields), float(self.input.ids_per_sample)
        b = float(batch) if batch is not None else float(self.input.batch_per_worker) * n
        if unique is None:
            vocabulary, skew = self.input.vocabulary, self.input.skew

            def unique(draws: float) -> float:
                return expected_unique(draws, vocabulary, skew)

        widths = self.mlp_widths
        layers = [a * b_ for a, b_ in zip(widths, (*widths[1:], 1), strict=False)]  # 1: the output unit
        return {
            "N": n,
            "B": b,
            "F": f,
            "D": float(self.embedding.width),
            "W": float(self.row_width),
            "H1": float(widths[0]) if widths else 0.0,
            "A": float(sum(layers)),
            # Biases: one a hidden unit, one of the output layer, one of the logit.
            "P": float(sum(layers) + sum(widths) + bool(widths) + 1),
            "Z": float(sum(widths)),
            "V": float(self.input.vocabulary),
            "O": float(self.row_slots),
            "m": m,
            "u": float(unique(b / n * m)),
            "U": float(unique(b * m)),
            # A field's m/F ids fall on this worker or not, each with probability 1/N.
            "q": f * -((1 - 1 / n) ** (m / f) - 1),
            "k": float(ID_BYTES),
            "c": float(COORDINATE_BYTES),
            "s": float(VALUE_BYTES),
        }


def parse_model(raw: Mapping[str, Any], path: str | Path) -> Model:
    """A model from a TOML table (or a trace header). Raises ModelError naming the key."""
    try:
        return Model.model_validate(raw)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        raise ModelError(path, "", "; ".join(problems)) from None


def load_model(name: str | Path) -> Model:
    """A model by file path, or by the name of a shipped one (`deepfm`). Raises ModelError."""
    path = Path(name)
    if not path.suffix and not path.exists():
        shipped = files("dessim.workload").joinpath("models")
        names = sorted(p.name.removesuffix(".toml") for p in shipped.iterdir() if p.name.endswith(".toml"))
        if str(name) not in names:
            raise ModelError(name, "", f"no such model file; shipped models: {', '.join(names)}")
        text = shipped.joinpath(f"{name}.toml").read_text("utf-8")
    else:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(path, "", f"cannot be read: {error}") from None
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ModelError(path, "", f"not TOML: {error}") from None
    return parse_model(raw, path)
