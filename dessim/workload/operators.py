"""The weights-rich operators of a model: what a model file may say of each, and what each costs when substituted.

An operator y = f(w; x) is replaced by g(f_1(w_1; x) + ... + f_N(w_N; x)): worker p computes its partial from the rows
it owns, the partials are summed over the workers, g finishes on every worker. `wire` is the number of floats a sample
the sum moves: K in the paper's terms (Rong et al., SIGIR 2020; formulas derived and tested in des_ref/substitution).

Formulas are strings over the symbols of dessim.workload.model. Where an operator has numbers of its own (how many cross
layers), they stand in the formula as numbers.
"""

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
    `returns`: whether it has a gradient (a maximum has none)."""

    wire: str
    pair_flops: str
    pair_floats: str
    returns: bool = True


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
    `id_grads`: floats of each id that its backward makes.
    `shared_weights`: floats of replicated weights that feed on local partials, whose gradient is itself a partial sum.
    `owned_weights`: floats of weights that live with the rows of their field, a share 1/N on each worker.
    `rounds`: what must be summed before the partials can be finished.
    `bag_floats`: floats that a bag (the ids of one field of one sample) needs beside the sum of its rows.
    `dense`: the layers above the sums.
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
    shared_weights: str = "0"
    owned_weights: str = "0"
    rounds: tuple[Round, ...] = ()
    bag_floats: int = 0
    dense: Dense = Dense()


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


class _Spec(BaseModel):
    """One operator as a model file states it; the model's logit is the sum of its operators'.

    `reads`: columns of a row that it works on. `not_by_hash`: why rows spread by hash will not do.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    reads: ClassVar[str] = "v"
    not_by_hash: ClassVar[str] = ""
    sums_only: ClassVar[bool] = False  # whether it works on field vectors that are sums or means, and no others

    def needs_operand(self, by_field: bool) -> bool:
        """Whether it does not separate: then only lookup and pooling are substituted, F*D floats a sample."""
        return False


class _OverOperand(_Spec):
    """An operator that multiplies whole fields with one another."""

    def needs_operand(self, by_field: bool) -> bool:
        return True


class Lr(_Spec):
    """z = sum_i w_i x_i."""

    kind: Literal["lr"]
    reads: ClassVar[str] = "w"

    def costs(self, shape: Shape) -> Costs:
        return Costs("lr", wire="1", id_flops="2", finish_flops="1", pooled_flops="F", id_grads="1")


class Fm(_Spec):
    """S = sum_i v_i, q = sum_i |v_i|^2; y = (|S|^2 - q) / 2."""

    kind: Literal["fm"]

    def costs(self, shape: Shape) -> Costs:
        return Costs(
            "fm",
            wire="(D+1)",
            id_flops="3*D",
            finish_flops="2*D+2",
            pooled_flops="3*F*D",
            id_floats="D",
            id_grads="3*D+1",  # of the sum, of the squares, and both together
            bag_floats=1,
        )


class FmFields(_Spec):
    """FM over pooled field vectors e_f: S = sum_f e_f, q = sum_f |e_f|^2; y = (|S|^2 - q) / 2."""

    kind: Literal["fm_fields"]
    sums_only: ClassVar[bool] = True
    not_by_hash: ClassVar[str] = (
        "its q sums |e_f|^2 over fields, and the square of a field's sum is not the sum of the squares of the parts "
        "that hash placement spreads over workers"
    )

    def costs(self, shape: Shape) -> Costs:
        return Costs(
            "fm_fields",
            wire="(D+1)",
            id_flops="D",
            pair_flops="3*D",
            finish_flops="2*D+2",
            pooled_flops="3*F*D",
            pair_floats="D",
            id_grads="D",
        )


class Mlp(_Spec):
    """h = W1 . concat_f(pooled v_f); the layers above W1 are the dense tail."""

    kind: Literal["mlp"]
    widths: Widths
    dropout: Dropout = 0.0

    def costs(self, shape: Shape) -> Costs:
        if shape.operand:
            return Costs("mlp", wire="0", dense=perceptron(shape.pooled, self.widths))
        return Costs(
            "mlp",
            wire="H1",
            id_flops="D",
            pair_flops="2*D*H1",
            pooled_flops="2*F*D*H1",
            pair_floats="D" if shape.by_field else "D+H1",
            id_grads="D",
            shared_weights="0" if shape.by_field else "H1*F*D",
            owned_weights="H1*F*D" if shape.by_field else "0",
            dense=tower(self.widths),
        )


class Nfm(_Spec):
    """Bi-interaction: S = sum_i v_i, Q = sum_i v_i o v_i; y = mlp((S o S - Q) / 2)."""

    kind: Literal["nfm"]
    widths: Widths
    dropout: Dropout = 0.0

    def costs(self, shape: Shape) -> Costs:
        return Costs(
            "nfm",
            wire="2*D",
            id_flops="3*D",
            finish_flops="3*D",
            pooled_flops="2*F*D + 3*D",
            id_floats="D",
            id_grads="3*D",
            bag_floats=shape.width,
            dense=perceptron(shape.width, self.widths) + Dense(units=2 * shape.width),
        )


class Cross(_Spec):
    """DCN's cross network in one round: x_l = a_l x_0 + c_l needs x_0 . w_l of each layer and x_0 . w_out only."""

    kind: Literal["cross"]
    sums_only: ClassVar[bool] = True
    layers: Positive

    def costs(self, shape: Shape) -> Costs:
        scalars = self.layers + 1
        return Costs(
            "cross",
            wire=f"{scalars}",
            id_flops="D",
            pair_flops=f"2*D*{scalars}",
            finish_flops=f"{3 * self.layers + 2}",
            pooled_flops=f"2*F*D*{scalars}",
            pair_floats=f"D+{scalars}",
            id_grads="D",
            shared_weights=f"{scalars}*F*D",
            dense=Dense(weights=self.layers * shape.pooled, units=2 * self.layers),
        )


class CrossV2(_Spec):
    """DCN-v2's cross network: full matrices, or U V^T of `rank`.

    Above the operand; but of low rank under field placement, r floats a sample and layer there and back.
    """

    kind: Literal["cross_v2"]
    layers: Positive
    rank: Positive | None = None

    def needs_operand(self, by_field: bool) -> bool:
        return self.rank is None or not by_field

    def costs(self, shape: Shape) -> Costs:
        n, r = shape.pooled, self.rank
        if r is not None and shape.by_field:
            leg = Round(wire=f"{r}", pair_flops=f"4*D*{r} + 4*D", pair_floats="2*D")
            return Costs(
                "cross_v2",
                wire="1",
                id_flops="D",
                pair_flops=f"2*D*{r}",
                pooled_flops=f"{self.layers}*F*D*{4 * r + 4}",
                pair_floats="D",
                id_grads="D",
                owned_weights=f"{self.layers * (2 * r + 1) + 1}*F*D",
                rounds=(leg,) * self.layers,
            )
        matrix = n * n if r is None else 2 * n * r
        units = (2 * self.layers - 1) * n + self.layers * (r or 0)  # x_l and its product, but x_0
        return Costs("cross_v2", wire="0", dense=Dense(self.layers * matrix + n, self.layers * (matrix + n) + n, units))


class Dot(_OverOperand):
    """Inner products of every two fields, and an mlp of them (dot: DLRM) or of them and the vectors (inner: PNN)."""

    kind: Literal["dot", "inner"]
    widths: Widths
    dropout: Dropout = 0.0

    def costs(self, shape: Shape) -> Costs:
        products = shape.fields * (shape.fields - 1) // 2
        inputs = products + (shape.pooled if self.kind == "inner" else 0)
        square = shape.fields**2
        gram = Dense(square * shape.width, units=square + products + (inputs if self.kind == "inner" else 0))
        return Costs(self.kind, wire="0", dense=gram + perceptron(inputs, self.widths))


class Cin(_OverOperand):
    """xDeepFM's compressed interaction network, `widths` feature maps a layer."""

    kind: Literal["cin"]
    widths: Widths

    def costs(self, shape: Shape) -> Costs:
        products = [below * shape.fields for below in (shape.fields, *self.widths[:-1])]
        # The widest products have two more tensors of their size in backward: their gradient, and a factor's share.
        layers = Dense(sum(self.widths), sum(self.widths), 2 * max(products) * shape.width)
        for wide, maps in zip(products, self.widths, strict=True):
            layers += Dense(wide * shape.width * (maps + 1), wide * maps, (wide + maps) * shape.width)
        return Costs("cin", wire="0", dense=layers)


class Head(_OverOperand):
    """A torch module of the user's own above the operand; what it costs is said here, for the simulator never runs it.

    `module` names a function, package.module:function; `activations` are floats a sample that its backward needs.
    """

    kind: Literal["head"]
    module: Annotated[str, Field(pattern=r"^\w+(\.\w+)*:\w+$")]
    weights: Annotated[int, Field(ge=0)]
    multiply_adds: Annotated[int, Field(ge=0)]
    activations: Annotated[int, Field(ge=0)] = 0

    def costs(self, shape: Shape) -> Costs:
        return Costs("head", wire="0", dense=Dense(self.multiply_adds, self.weights, self.activations))


AnySpec = Lr | Fm | FmFields | Nfm | Cross | Mlp | CrossV2 | Dot | Cin | Head
Spec = Annotated[AnySpec, Field(discriminator="kind")]
KINDS = (
    "lr",
    "fm",
    "fm_fields",
    "nfm",
    "cross",
    "mlp",
    "cross_v2",
    "dot",
    "inner",
    "cin",
    "head",
)  # the order of the buffer

# The pooled vectors of all fields, by how they are pooled.
OPERANDS = {
    "sum": Costs("operand", wire="F*D", id_flops="D", id_grads="D"),
    "mean": Costs("operand", wire="F*D", id_flops="2*D", id_grads="2*D"),
    "max": Costs("operand", wire="F*D", id_flops="D", id_grads="D", rounds=(Round("F*D", "2*D", "D", returns=False),)),
    "attention": Costs(
        "operand",
        wire="F*(D+1)",
        id_flops="4*D + 3",
        finish_flops="F*D",
        id_floats="2*D + 2",
        id_grads="2*D + 2",
        shared_weights="D",
        rounds=(Round("F", "0", "1", returns=False),),
    ),
}


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
