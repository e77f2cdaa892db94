"""Operators that sum over ids and finish with a function of the sums. Rows may live on any worker."""

from __future__ import annotations

from typing import ClassVar, Literal

from dessim.workload.formula import ONE, number, tight_sum
from dessim.workload.operators.base import Costs, Dense, Dropout, OperatorSpec, Shape, Widths, perceptron
from dessim.workload.symbols import D, F


class Lr(OperatorSpec):
    """z = sum_i w_i x_i."""

    kind: Literal["lr"]
    any_widths: ClassVar[bool] = True
    reads_tables_alone: ClassVar[bool] = True
    reads: ClassVar[str] = "w"
    exact_partials: ClassVar[bool] = True  # its one float is a term of the logit

    def costs(self, shape: Shape) -> Costs:
        return Costs("lr", wire=ONE, id_flops=number(2), finish_flops=ONE, pooled_flops=F)


class Fm(OperatorSpec):
    """S = sum_i v_i, q = sum_i |v_i|^2; y = (|S|^2 - q) / 2."""

    kind: Literal["fm"]
    reads_tables_alone: ClassVar[bool] = True
    cancels: ClassVar[bool] = True
    exact_partials: ClassVar[bool] = True

    def costs(self, shape: Shape) -> Costs:
        return Costs(
            "fm",
            wire=tight_sum(D, 1),
            id_flops=3 * D,
            finish_flops=2 * D + 2,
            pooled_flops=3 * F * D,
            row_grads=2 * D + 1,  # gradients of the summed values and of the squares
            bag_floats=1,
        )


class Nfm(OperatorSpec):
    """Bi-interaction: S = sum_i v_i, Q = sum_i v_i o v_i; y = mlp((S o S - Q) / 2)."""

    kind: Literal["nfm"]
    reads_tables_alone: ClassVar[bool] = True
    cancels: ClassVar[bool] = True
    exact_partials: ClassVar[bool] = True
    widths: Widths
    dropout: Dropout = 0.0

    def costs(self, shape: Shape) -> Costs:
        return Costs(
            "nfm",
            wire=2 * D,
            id_flops=3 * D,
            finish_flops=3 * D,
            pooled_flops=2 * F * D + 3 * D,
            row_grads=D,  # gradients of the squares; the layers' activations are freed by then
            bag_floats=shape.width,
            dense=perceptron(shape.width, self.widths) + Dense(units=2 * shape.width),
        )
