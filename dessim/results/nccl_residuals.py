"""How well a transport fits readings of nccl-tests, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from dessim.results.fitted_table import FittedTable
from dessim.results.tables import table_of
from dessim.units import format_size, format_time, percent

Errors = Mapping[tuple[str, str], Sequence[float]]
"""(op, band of sizes) -> predicted / measured - 1."""


def residual_tables(
    rows: Sequence[tuple[str, int, float, float, float]], errors: Errors
) -> tuple[FittedTable, FittedTable]:
    """One line per op and size, and one per op and band. Rows are op, GPUs, bytes, measured us, predicted us."""
    lines = [
        (
            op,
            f"{gpus}",
            format_size(size),
            format_time(measured * 1e-6),
            format_time(predicted * 1e-6),
            percent(predicted / measured - 1, signed=True),
        )
        for op, gpus, size, measured, predicted in rows
    ]
    columns = ("op", "GPUs", "size", "measured", "predicted", "error")
    return table_of(columns, lines), error_table(errors)


def error_table(errors: Errors, first: str = "op") -> FittedTable:
    """One line per op and band of sizes, with the median of the absolute errors."""
    lines = [
        (name, sizes, f"{len(found)}", percent(median(map(abs, found))), percent(median(found), signed=True))
        for (name, sizes), found in errors.items()
    ]
    return table_of((first, "sizes", "readings", "median error", "signed median"), lines, left=("sizes",))
