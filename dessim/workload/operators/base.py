"""Operators of a model: the base classes of their entries in a model file, and what an operator costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from dessim.workload.formula import ZERO, Formula, add_up, group, max_of
from dessim.workload.symbols import A

Positive = Annotated[int, Field(gt=0, le=10**9)]
Layers = Annotated[int, Field(gt=0, le=1000)]
Widths = Annotated[tuple[Positive, ...], Field(min_length=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, slots=True)
class Layer:
    """A product of matrices: `rows` vectors of `inputs` values a sample become vectors of `outputs` values.

    `apart`: whether each sample multiplies by its own matrix, not all of them by the same weights.
    """

    inputs: int
    outputs: int
    rows: int = 1
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Dense:
    """Layers above the summed partials: multiply-adds a sample, weights, and activations (floats) a sample that the
    backward pass needs. `layers` are the products of matrices among the multiply-adds."""

    multiply_adds: int = 0
    weights: int = 0
    units: int = 0
    layers: tuple[Layer, ...] = ()

    def __add__(self, other: Dense) -> Dense:
        return Dense(
            self.multiply_adds + other.multiply_adds,
            self.weights + other.weights,
            self.units + other.units,
            self.layers + other.layers,
        )


def stack(*widths: int) -> tuple[Layer, ...]:
    """Layers that follow one another: from widths[0] inputs to widths[-1] outputs."""
    return tuple(Layer(a, b) for a, b in pairwise(widths))


def tower(widths: tuple[int, ...]) -> Dense:
    """An mlp without the products of its first layer: that layer's bias, the further layers and one output unit."""
    products = sum(a * b for a, b in pairwise((*widths, 1)))
    return Dense(products, products + sum(widths) + 1, sum(widths), stack(*widths, 1))


def hidden_layers(inputs: int, widths: tuple[int, ...]) -> Dense:
    """An mlp whose last layer is its output: every layer has a bias and ends in a ReLU."""
    products = sum(a * b for a, b in pairwise((inputs, *widths)))
    return Dense(products, products + sum(widths), sum(widths), stack(inputs, *widths))


def perceptron(inputs: int, widths: tuple[int, ...]) -> Dense:
    """A whole mlp: `tower` with the products of its first layer."""
    return tower(widths) + Dense(inputs * widths[0], inputs * widths[0], layers=stack(inputs, widths[0]))


@dataclass(frozen=True, slots=True)
class Round:
    """An AllReduce in the middle of local partials. Its sum feeds more local computation, the next *leg*.

    `wire`: floats a sample that it reduces.
    `pair_flops`, `pair_floats`: of the leg, as in Costs.
    `sample_floats`: floats of each sample that the leg keeps besides.
    `returns`: whether the sum has a gradient, which is then AllReduced too. A maximum has none.
    """

    wire: Formula
    pair_flops: Formula
    pair_floats: Formula
    sample_floats: Formula = ZERO
    returns: bool = True


@dataclass(frozen=True, slots=True)
class Output:
    """A softmax over the ids of each field, above the dense layers: it scores a sample's code of `code` floats against
    the output row of every id."""

    code: int

    @property
    def row(self) -> int:
        """Floats of an id's output row: weights and bias."""
        return self.code + 1


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of one operator of a model, as formulas over the symbols of dessim.workload.symbols.

    `wire`: floats a sample in the buffer of partials, which is summed over workers.
    `id_flops`: FLOPs of the local partial for each id, forward.
    `pair_flops`: the same for each (sample, field) pair that has an id on this worker.
    `finish_flops`: FLOPs a sample that turn the summed partials into the output, forward, without the layers of
        `dense`.
    `pooled_flops`: FLOPs a sample of the whole operator over pooled field vectors, for strategies that do not
        substitute it, without `dense`.
    `pooled_layers`: the products of matrices among them.
    `id_floats`, `pair_floats`: floats of each id, and of each such pair, that the local partial keeps for its backward.
    `id_grads`, `row_grads`: floats of each id, and of each distinct id, that the backward creates.
    `shared_weights`: replicated weights that local partials read. Their gradient is a partial sum.
    `owned_weights`: weights that live with the rows of their field, a share 1/N on each worker.
    `rounds`: AllReduces that must finish before the partials can.
    `bag_floats`: floats that a bag (the ids of one field of one sample) carries beside the sum of its rows.
    `dense`: the layers above the summed partials.
    `output`: the softmax over ids above those; None if the model ends in a logit.
    """

    kind: str
    wire: Formula
    id_flops: Formula = ZERO
    pair_flops: Formula = ZERO
    finish_flops: Formula = ZERO
    pooled_flops: Formula = ZERO
    pooled_layers: tuple[Layer, ...] = ()
    id_floats: Formula = ZERO
    pair_floats: Formula = ZERO
    id_grads: Formula = ZERO
    row_grads: Formula = ZERO
    shared_weights: Formula = ZERO
    owned_weights: Formula = ZERO
    rounds: tuple[Round, ...] = ()
    bag_floats: int = 0
    dense: Dense = Dense()
    output: Output | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """The properties of a model that the costs of its operators depend on.

    `widths`: columns of each field's table. `names`: the tables' names, empty in a version 1 file.
    `bottom`: floats of the bottom mlp's output, 0 if there are no dense inputs.
    `operand`: whether the pooled vectors of all fields (the operand) cross the network anyway, because some operator
        does not separate.
    `by_field`: whether a worker owns whole fields (field placement) or rows of all fields (hash placement).
    """

    widths: tuple[int, ...]
    names: tuple[str, ...] = ()
    bottom: int = 0
    operand: bool = False
    by_field: bool = False

    @property
    def fields(self) -> int:
        """F."""
        return len(self.widths)

    @property
    def width(self) -> int:
        """The embedding width D, which operators that need vectors of one width read."""
        return self.widths[0]

    @property
    def tables(self) -> int:
        """Floats of one sample's pooled fields."""
        return sum(self.widths)

    @property
    def vectors(self) -> int:
        """Vectors of a sample that operators over the operand read: pooled fields, and the output of the bottom mlp."""
        return self.fields + bool(self.bottom)

    @property
    def pooled(self) -> int:
        """Floats of one sample's vectors."""
        return self.tables + self.bottom


class OperatorSpec(BaseModel):
    """One operator as a model file states it. The model's logit is the sum of its operators' outputs.

    `reads_tables_alone`: whether it works on the ids of fields, so that dense inputs do not concern it.
    `any_widths`: whether the vectors of fields, which it concatenates or does not read, may differ in width.
    `reads`: the value column of a row that it reads: the embedding v or the linear weight w.
    `not_by_hash`: why it cannot work under hash placement; empty if it can.
    `sums_only`: whether, under hash placement, it supports only fields that are pooled by sum or mean.
    `alone`: why it must be the model's only operator; empty if it need not be.
    `cancels`: whether it subtracts sums that are nearly equal, so that a lossy codec on them would ruin its output.
    `exact_partials`: whether codecs must leave its part of the buffer of partials as it is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    reads_tables_alone: ClassVar[bool] = False
    any_widths: ClassVar[bool] = False
    reads: ClassVar[str] = "v"
    not_by_hash: ClassVar[str] = ""
    sums_only: ClassVar[bool] = False
    alone: ClassVar[str] = ""
    cancels: ClassVar[bool] = False
    exact_partials: ClassVar[bool] = False

    def needs_operand(self, by_field: bool) -> bool:
        """Whether it does not separate. Then DES substitutes only lookup and pooling, and sends whole vectors."""
        return False

    def misfit(self, shape: Shape) -> str:
        """The reason why it cannot stand in a model of this shape; empty if it can."""
        return ""


class DesOrMesh(OperatorSpec):
    """An operator that separates, but may also be computed above the operand with `strategy = "mesh"`.

    Its widths decide which sends less. `des` sends its partials, and the gradients of weights that local partials read,
    if any. `mesh` sends the operand, F*D floats a sample, once for all operators that read it.
    """

    strategy: Literal["des", "mesh"] = "des"

    def needs_operand(self, by_field: bool) -> bool:
        return self.strategy == "mesh"


class OverOperand(OperatorSpec):
    """An operator that multiplies whole fields with one another, and so does not separate."""

    def needs_operand(self, by_field: bool) -> bool:
        return True


def terms(costs: Iterable[Costs], part: str) -> list[Formula]:
    """One cost of each operator that has it: `terms(costs, "wire")`. FLOPs above the sums include the dense layers'."""
    costs = tuple(costs)
    present: list[Formula] = [cost for c in costs if (cost := getattr(c, part))]
    if part in ("finish_flops", "pooled_flops") and any(c.dense.multiply_adds for c in costs):
        present.append(2 * A)
    return present


def total(costs: Iterable[Costs], part: str) -> Formula:
    """The sum of one cost over the operators of a model: `total(costs, "wire")` may be `1 + (D+1)`."""
    return add_up(terms(costs, part))


def largest(costs: Iterable[Costs], part: str) -> Formula:
    """The largest of one cost over the operators: memory that they need one after another, not at the same time."""
    present = terms(costs, part)
    if not present:
        return ZERO
    return max_of(*present) if len(present) > 1 else group(present[0])
