"""Operators that are sums over pooled field vectors, and how these are pooled where all of them must travel."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from dessim.workload.operators.base import (
    Costs,
    Dropout,
    EitherWay,
    OperatorSpec,
    Round,
    Shape,
    Widths,
    perceptron,
    tower,
)

# Attention, wherever a bag's ids are: the logit of each id, its share of the bag, and the gradients of both.
_ATTENTION = Costs("pooling", wire="0", id_flops="3*D + 3", id_floats="2*D + 2", id_grads="2*D + 2", shared_weights="D")

# What pooling of whole bags takes beside the sums that operators count. Nothing crosses.
WHOLE_POOLS = {
    "max": Costs("pooling", wire="0", id_flops="D", id_floats="D", pair_floats="D", id_grads="D"),
    "attention": replace(_ATTENTION, pair_flops="D", pair_floats="2*D + 1"),
}

# The pooled vectors of all fields, by how they are pooled, from bags whose ids are spread over workers.
_OPERANDS = {
    "sum": Costs("operand", wire="F*D", id_flops="D"),
    "mean": Costs("operand", wire="F*D", id_flops="2*D"),
    "max": Costs("operand", wire="F*D", id_flops="D", id_grads="D", rounds=(Round("F*D", "2*D", "D", returns=False),)),
    "attention": replace(
        _ATTENTION,
        kind="operand",
        wire="F*(D+1)",
        id_flops=f"D + {_ATTENTION.id_flops}",
        finish_flops="F*D",
        rounds=(Round("F", "0", "1", returns=False),),
    ),
}


def pooling_costs(pooling: str, operand: bool, by_field: bool) -> tuple[Costs, ...]:
    """Costs of pooling where it is no sum, and of the operand where all pooled vectors cross the network."""
    if by_field and pooling in WHOLE_POOLS:
        return (WHOLE_POOLS[pooling], *([_OPERANDS["sum"]] if operand else []))
    return (_OPERANDS[pooling],) if operand else ()


class FmFields(OperatorSpec):
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
        )


class Mlp(EitherWay):
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
            pair_floats="D",
            shared_weights="0" if shape.by_field else "H1*F*D",
            owned_weights="H1*F*D" if shape.by_field else "0",
            dense=tower(self.widths),
        )
