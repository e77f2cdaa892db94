"""State and costs of the optimizers of rows, by the trainer's names (des_ref/embedding/optim.py implements them).

The numbers are counted, not measured. tests/des_ref/test_optim.py checks state and torch calls against the trainer.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RowOptimizer:
    """Costs of one optimizer.

    `floats`: floats of state for each float of a row.
    `column_floats`: floats of state for each value column of a row (the embedding, the linear weight).
    `row_floats`: floats of state for each row.
    `flops`: FLOPs to update one float.
    `column_kernels`: torch calls to update one value column.
    `kernels`: torch calls of an update that do not depend on the number of columns.
    """

    floats: int
    flops: int
    column_kernels: int
    column_floats: int = 0
    row_floats: int = 0
    kernels: int = 0

    def slots(self, widths: Collection[int]) -> int:
        """Floats of state of a row whose value columns have these widths."""
        return self.floats * sum(widths) + self.column_floats * len(widths) + self.row_floats

    def calls(self, widths: Collection[int]) -> int:
        """Torch calls of one step's update of all rows, whose value columns have these widths."""
        return self.kernels + self.column_kernels * len(widths)


ROW_OPTIMIZERS: dict[str, RowOptimizer] = {
    "sgd": RowOptimizer(floats=0, flops=2, column_kernels=4),
    "rowwise_adagrad": RowOptimizer(floats=0, column_floats=1, flops=6, column_kernels=12),
    "adagrad": RowOptimizer(floats=1, flops=7, column_kernels=11),
    "adam": RowOptimizer(floats=2, row_floats=1, flops=14, column_kernels=20, kernels=9),
    "ftrl": RowOptimizer(floats=2, flops=28, column_kernels=35),
}
