"""What a model file may say of an operator, and the forms its costs come in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Widths = Annotated[tuple[Positive, ...], Field(min_length=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, slots=True)
class Dense:
    """Layers above the sums: multiply-adds a sample, weights, and activations a sample that backward needs."""

    multiply_adds: int = 0
    weights: int = 0
    units: int = 0

    def __add__(self, other: Dense) -> Dense:
        return Dense(self.multiply_adds + other.multiply_adds, self.weights + other.weights, self.units + other.units)


def tower(widths: tuple[int, ...]) -> Dense:
    """Hidden layers above a first one that is computed elsewhere: its bias, the further layers, one output unit."""
    products = sum(a * b for a, b in pairwise((*widths, 1)))
    return Dense(products, products + sum(widths) + 1, sum(widths))


def perceptron(inputs: int, widths: tuple[int, ...]) -> Dense:
    """`tower` with its first layer."""
    return tower(widths) + Dense(inputs * widths[0], inputs * widths[0])


@dataclass(frozen=True, slots=True)
class Round:
    """An AllReduce in the middle of local partials, whose sum feeds other computation on each worker, so that its
    gradient is AllReduced too: `wire` floats a sample; then `pair_flops` and `pair_floats`, as those of Costs.
    `sample_floats`: floats of each sample that the leg keeps beside those. `returns`: whether it has a gradient (a
    maximum has none)."""

    wire: str
    pair_flops: str
    pair_floats: str
    sample_floats: str = "0"
    returns: bool = True


@dataclass(frozen=True, slots=True)
class Output:
    """A softmax a field over ids, above the dense layers: `code` floats of each sample meet the row of each id."""

    code: int

    @property
    def row(self) -> int:
        """Floats of an id's output: its weights and its bias."""
        return self.code + 1


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of one operator of a model.

    `wire`: floats a sample in the reduced buffer.
    `id_flops`: FLOPs of the local partial for each id, forward.
    `pair_flops`: the same for each (sample, field) pair that has an id on this worker.
    `finish_flops`: FLOPs a sample of g, forward, without the layers that `dense` counts.
    `pooled_flops`: FLOPs a sample of the whole operator over pooled field vectors, where it is not substituted, without
        `dense`.
    `id_floats`, `pair_floats`: floats of each id, each such pair, that the local partial keeps for its backward.
    `id_grads`, `row_grads`: floats of each id, each different one, that its backward makes.
    `shared_weights`: floats of replicated weights that feed on local partials, whose gradient is itself a partial sum.
    `owned_weights`: floats of weights that live with the rows of their field, a share 1/N on each worker.
    `rounds`: what must be summed before the partials can be finished.
    `bag_floats`: floats that a bag (the ids of one field of one sample) needs beside the sum of its rows.
    `dense`: the layers above the sums.
    `output`: what is above those, where it is not a logit.
    """

    kind: str
    wire: str
    id_flops: str = "0"
    pair_flops: str = "0"
    finish_flops: str = "0"
    pooled_flops: str = "0"
    id_floats: str = "0"
    pair_floats: str = "0"
    id_grads: str = "0"
    row_grads: str = "0"
    shared_weights: str = "0"
    owned_weights: str = "0"
    rounds: tuple[Round, ...] = ()
    bag_floats: int = 0
    dense: Dense = Dense()
    output: Output | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """What costs depend on besides the operator: fields F, embedding width D, whether the pooled vectors of all fields
    cross the network anyway, because some operator of the model cannot do with less, and whether a worker holds whole
    fields (field placement) or rows of all of them (hash placement)."""

    fields: int
    width: int
    operand: bool = False
    by_field: bool = False

    @property
    def pooled(self) -> int:
        """Floats of one sample's pooled vectors."""
        return self.fields * self.width


class OperatorSpec(BaseModel):
    """One operator as a model file states it; the model's logit is the sum of its operators'.

    `reads`: columns of a row that it works on. `not_by_hash`: why rows spread by hash will not do.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    reads: ClassVar[str] = "v"
    not_by_hash: ClassVar[str] = ""
    sums_only: ClassVar[bool] = False  # whether, where ids of a field are spread, it works on sums and means only
    alone: ClassVar[str] = ""  # why no other operator may stand beside it

    def needs_operand(self, by_field: bool) -> bool:
        """Whether it does not separate: then only lookup and pooling are substituted, F*D floats a sample."""
        return False

    def misfit(self, fields: int) -> str:
        """What is wrong with it in a model of so many fields; empty: nothing."""
        return ""


class EitherWay(OperatorSpec):
    """An operator that separates, and may still be computed above the operand: `strategy = "mesh"`.

    Which sends less depends on its widths: `des` sends what its partials take, and gradients of weights that are read
    below the sums where there are such; `mesh` the operand, F*D floats a sample, once for all operators that read it.
    """

    strategy: Literal["des", "mesh"] = "des"

    def needs_operand(self, by_field: bool) -> bool:
        return self.strategy == "mesh"


class OverOperand(OperatorSpec):
    """An operator that multiplies whole fields with one another."""

    def needs_operand(self, by_field: bool) -> bool:
        return True


def total(costs: Iterable[Costs], part: str) -> str:
    """The sum of one cost over the operators of a model, as a formula: `total(costs, "wire")` is `1 + (D+1)`.

    FLOPs above the sums include the dense layers' A multiply-adds.
    """
    costs = tuple(costs)
    terms = [text for c in costs if (text := getattr(c, part)) != "0"]
    if part in ("finish_flops", "pooled_flops") and any(c.dense.multiply_adds for c in costs):
        terms.append("2*A")
    return " + ".join(terms) if terms else "0"


def largest(costs: Iterable[Costs], part: str) -> str:
    """The largest of one cost over the operators, as a formula: what they need one after another, not together."""
    terms = [text for c in costs if (text := getattr(c, part)) != "0"]
    return f"max({', '.join(terms)})" if len(terms) > 1 else f"({terms[0]})" if terms else "0"
