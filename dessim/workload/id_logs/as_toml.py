"""The tables of a log as entries of a model file, with what was measured as comments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dessim.workload.id_logs.measure import MeasuredLog, MeasuredTable

_COLUMNS = ("batch", "fitted half", "other half", "predicted", "error")


def as_toml(log: MeasuredLog, sources: Sequence[Path]) -> str:
    """The text of a file of `[[tables]]`, to be pasted into a model file of schema_version 2."""
    head = [
        f"# Tables of {', '.join(json.dumps(path.name, ensure_ascii=False) for path in sources)}: "
        f"{log.samples:,} samples. Made by `dessim ids`.",
        "# The law of each table is fitted to the mean different ids of batches in one half of the log, and checked on",
        f"# the other half. Each half has every other block of {log.block:,} samples, about.",
    ]
    return "\n".join([*head, *(line for table in log.tables for line in ("", *_lines(table)))]) + "\n"


def _lines(table: MeasuredTable) -> list[str]:
    name = json.dumps(table.name, ensure_ascii=False)
    about = "" if table.is_exact else "about "
    rows = [
        (f"{c.batch:,}", f"{c.fitted:,.1f}", f"{c.measured:,.1f}", f"{c.predicted:,.1f}", f"{100 * c.error:+.1f} %")
        for c in table.checks
    ]
    return [
        f"# {name}: {about}{table.different:,} different ids. Different ids of a batch:",
        *("# " + " ".join(f"{cell:>12}" for cell in cells) for cells in (_COLUMNS, *rows)),
        "[[tables]]",
        f"name = {name}",
        f"rows = {table.law.vocabulary:.0f}",
        f"ids = {table.ids!r}",
        *_law(table),
    ]


def _law(table: MeasuredTable) -> list[str]:
    if table.law.shares:
        return [f"shares = {list(table.law.shares)}"]
    return [f"skew = {table.law.skew!r}", f"offset = {table.law.offset!r}"]
