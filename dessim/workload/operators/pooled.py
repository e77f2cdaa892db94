"""Operators that sum over pooled field vectors, and what pooling costs where the pooled vectors must be sent."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from dessim.workload.formula import ONE, ZERO, tight_sum
from dessim.workload.operators.base import (
    Costs,
    DesOrMesh,
    Dropout,
    OperatorSpec,
    Round,
    Shape,
    Widths,
    perceptron,
    stack,
    tower,
)
from dessim.workload.symbols import DF, H1, D, Dm, Dq, F

# Attention pooling, wherever the ids of a bag live: each id's logit, its weight in the bag, and the gradients of both.
_ATTENTION = Costs(
    "pooling",
    wire=ZERO,
    id_flops=3 * D + 3,
    id_floats=2 * D + 2,
    id_grads=2 * D + 2,
    shared_weights=D,
)

# Costs of pooling whole bags beyond the sums that operators count. Nothing is sent.
WHOLE_POOLS = {
    "max": Costs("pooling", wire=ZERO, id_flops=D, id_floats=D, pair_floats=D, id_grads=D),
    "attention": replace(_ATTENTION, pair_flops=D, pair_floats=2 * D + 1),
}

# Costs of the operand (the pooled vectors of all fields), by pooling, when the ids of a bag are spread over workers.
_OPERANDS = {
    "sum": Costs("operand", wire=F * DF, id_flops=Dm),
    "mean": Costs("operand", wire=F * DF, id_flops=2 * Dm),
    "max": Costs(
        "operand",
        wire=F * D,
        id_flops=D,
        id_grads=D,
        rounds=(Round(F * D, pair_flops=2 * D, pair_floats=D, returns=False),),
    ),
    "attention": replace(
        _ATTENTION,
        kind="operand",
        wire=F * tight_sum(D, 1),
        id_flops=D + _ATTENTION.id_flops,
        finish_flops=F * D,
        rounds=(Round(F, pair_flops=ZERO, pair_floats=ONE, returns=False),),
    ),
}


def pooling_costs(pooling: str, operand: bool, by_field: bool) -> tuple[Costs, ...]:
    """Costs of pooling by maximum or attention, and of the operand if all pooled vectors cross the network."""
    if by_field and pooling in WHOLE_POOLS:
        return (WHOLE_POOLS[pooling], *([_OPERANDS["sum"]] if operand else []))
    return (_OPERANDS[pooling],) if operand else ()


class FmFields(OperatorSpec):
    """FM over pooled field vectors e_f: S = sum_f e_f, q = sum_f |e_f|^2; y = (|S|^2 - q) / 2."""

    kind: Literal["fm_fields"]
    reads_tables_alone: ClassVar[bool] = True
    sums_only: ClassVar[bool] = True
    cancels: ClassVar[bool] = True
    exact_partials: ClassVar[bool] = True
    not_by_hash: ClassVar[str] = (
        "its q sums |e_f|^2 over fields, and the square of a field's sum is not the sum of the squares of the parts "
        "that hash placement spreads over workers"
    )

    def costs(self, shape: Shape) -> Costs:
        return Costs(
            "fm_fields",
            wire=tight_sum(D, 1),
            id_flops=D,
            pair_flops=3 * D,
            finish_flops=2 * D + 2,
            pooled_flops=3 * F * D,
            pair_floats=D,
        )


class Mlp(DesOrMesh):
    """An mlp over h = W1 . concat_f(pooled v_f). W1 is substituted; the layers above it are the dense tail."""

    kind: Literal["mlp"]
    any_widths: ClassVar[bool] = True
    widths: Widths
    dropout: Dropout = 0.0

    def costs(self, shape: Shape) -> Costs:
        if shape.operand:
            return Costs("mlp", wire=ZERO, dense=perceptron(shape.pooled, self.widths))
        return Costs(
            "mlp",
            wire=H1,
            id_flops=Dm,
            pair_flops=2 * Dq * H1,
            pooled_flops=2 * F * DF * H1,
            pooled_layers=stack(shape.tables, self.widths[0]),
            pair_floats=Dq,
            shared_weights=ZERO if shape.by_field else H1 * F * DF,
            owned_weights=H1 * F * DF if shape.by_field else ZERO,
            dense=tower(self.widths),
        )
