"""The sections of a model file (dessim.workload.model): input, tables, embedding, dense inputs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dessim.workload.ids import ZipfLaw
from dessim.workload.operators import Positive, Widths
from dessim.workload.row_optimizers import ROW_OPTIMIZERS

MAX_FIELDS = 100_000
_MOST_ROWS = 1e15
MAX_WIDTH = 65_536
"""The most columns of a table."""
GROUP_BITS = 8
"""Bits of an id that name the width of its table, where tables differ in width (des_ref/embedding/widths.py)."""
Width = Annotated[int, Field(gt=0, le=MAX_WIDTH)]
MAX_SHARES = 64
"""A table of at most this many rows may state the share of each."""
_SHARES_SUM_ERROR = 1e-3


class Strict(BaseModel):
    """A section that has no other keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Input(Strict):
    """The shape of a batch."""

    fields: Annotated[int, Field(gt=0, le=MAX_FIELDS)]
    ids_per_sample: Annotated[float, Field(gt=0)]
    batch_per_worker: Positive = 4096
    vocabulary: Annotated[float, Field(ge=1, le=_MOST_ROWS)] = 1e8
    skew: Annotated[float, Field(ge=0, le=20)] = 1.05

    @model_validator(mode="after")
    def _ids_are_bounded(self) -> Input:
        if self.ids_per_sample > 1e6:
            raise ValueError("ids_per_sample above 1e6 is not a sample")
        return self


class Table(Strict):
    """One embedding table of a version 2 file: the rows of one field.

    `ids`: mean ids a sample. `skew`, `offset`: the r-th most frequent id has a probability proportional to
    (r + offset)**-skew. `shares` states the probabilities of all ids of a small table instead, most frequent first.
    `width`: columns, those of [embedding] by default. `pooling` must be that of the model.
    """

    name: Annotated[str, Field(max_length=100)] = ""
    rows: Annotated[float, Field(ge=1, le=_MOST_ROWS)]
    ids: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    skew: Annotated[float, Field(ge=0, le=20)] = 1.05
    offset: Annotated[float, Field(ge=0, le=_MOST_ROWS)] = 0.0
    shares: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(max_length=MAX_SHARES)] = ()
    width: Width | None = None
    pooling: Literal["sum", "mean", "max", "attention"] | None = None

    @property
    def law(self) -> ZipfLaw:
        """The law of its ids."""
        return ZipfLaw(self.rows, self.skew, offset=self.offset, shares=self.shares)

    @model_validator(mode="after")
    def _shares_are_those_of_the_rows(self) -> Table:
        if self.shares:
            if len(self.shares) != self.rows:
                raise ValueError(f"{len(self.shares)} shares for {self.rows:g} rows; each row needs one")
            if abs(sum(self.shares) - 1) > _SHARES_SUM_ERROR or list(self.shares) != sorted(self.shares, reverse=True):
                raise ValueError("shares must add up to 1, the largest first")
        return self


class DenseInput(Strict):
    """Dense features of a sample, and the `widths` of the bottom mlp that turns them into one more embedding."""

    features: Positive
    widths: Widths


class Embedding(Strict):
    """The embedding tables, one row for each feature id.

    `placement`: where DES places rows; other strategies determine it themselves.
    `pooling`: how operators over pooled field vectors (mlp, cross, ...) pool the ids of a field. lr, fm and nfm work on
    ids.
    `optimizer_slots`: floats of optimizer state a row; None for those of `optimizer`.
    """

    width: Width
    placement: Literal["hash", "field"] = "hash"
    pooling: Literal["sum", "mean", "max", "attention"] = "sum"
    optimizer: str = "rowwise_adagrad"
    optimizer_slots: Annotated[int, Field(ge=0)] | None = None

    @field_validator("optimizer")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in ROW_OPTIMIZERS:
            raise ValueError(f"there is no {name!r}; use {', '.join(ROW_OPTIMIZERS)}")
        return name
