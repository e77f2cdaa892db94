"""Row-wise Adagrad: one accumulator a row, so the optimizer's state is 1/D of the weights.

    a_r += mean_j g_rj**2        (the mean over the row's columns, as FBGEMM's EXACT_ROWWISE_ADAGRAD)
    v_rj -= rate * g_rj / (sqrt(a_r) + eps)

A step updates each row it touched exactly once, with the sum of the gradients of all its occurrences (autograd's
backward of index_select has summed them). Rows that a step does not touch do not change; there is no weight decay,
because decay of untouched rows would need either a pass over the whole table or a lie.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from des_ref.embedding.hash_table import RowTable


@dataclass(frozen=True, slots=True)
class RowAdagrad:
    """Settings of row-wise Adagrad; the accumulator of column `x` is the table's column `x_sum`."""

    rate: float
    eps: float = 1e-8

    def update(self, table: RowTable, name: str, rows: Tensor, grad: Tensor) -> None:
        """Update rows [u] (all different) of column `name` with gradients [u, width], in place."""
        values, sums = table.columns[name], table.columns[f"{name}_sum"]
        new_sums = sums[rows] + grad.square().mean(dim=1, keepdim=True)
        sums[rows] = new_sums
        values[rows] -= self.rate * grad / (new_sums.sqrt() + self.eps)
