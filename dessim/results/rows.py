"""Rows of results: plain dicts, as they stand in JSON, for tables, figures and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def fitting(rows: Iterable[Row]) -> list[Row]:
    """The rows that have times: those of jobs that fit their GPUs."""
    return [row for row in rows if not row.get("does_not_fit")]


def data_csv(rows: Iterable[Row], columns: Sequence[str], nested: Sequence[str] = ()) -> str:
    """Rows as CSV; a dict in a row (one of `nested`) becomes columns: `bytes_ids` for `bytes_by_traffic.ids`."""
    rows = list(rows)
    inner = {key: sorted({k for r in rows for k in r[key]}) for key in nested}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    spread = [(key, k) for key, keys in inner.items() for k in keys]
    writer.writerow([*columns, *(f"{key.split('_by_')[0]}_{k}" for key, k in spread)])
    for row in rows:
        writer.writerow([*(row.get(c, "") for c in columns), *(row[key].get(k, 0) for key, k in spread)])
    return out.getvalue()


def some(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows. Raises ValueError where there are none."""
    if not rows:
        raise ValueError("a figure needs at least one row")
    return rows
