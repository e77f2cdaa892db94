"""Rows of results for tables, figures and CSV: plain dicts, as in the JSON output."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def fitting(rows: Iterable[Row]) -> list[Row]:
    """The rows of jobs that fit their GPUs; only these have times."""
    return [row for row in rows if not row.get("does_not_fit")]


def contenders(rows: Iterable[Row]) -> list[Row]:
    """The rows that may be called the fastest: those with times, except lower bounds."""
    return [row for row in fitting(rows) if not row.get("lower_bound")]


def data_csv(rows: Iterable[Row], columns: Sequence[str], nested: Sequence[str] = ()) -> str:
    """Rows as CSV. Dicts inside rows (`nested`) become columns: `bytes_by_traffic.ids` is column `bytes_ids`."""
    rows = list(rows)
    nested_columns = [(key, inner) for key in nested for inner in sorted({k for row in rows for k in row[key]})]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*columns, *(f"{key.split('_by_')[0]}_{inner}" for key, inner in nested_columns)])
    for row in rows:
        cells = [row.get(column, "") for column in columns]
        writer.writerow([*cells, *(row[key].get(inner, 0) for key, inner in nested_columns)])
    return out.getvalue()


def require_rows(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows themselves. Raises ValueError if there are none."""
    if not rows:
        raise ValueError("a figure needs at least one row")
    return rows
