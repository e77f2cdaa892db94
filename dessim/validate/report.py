"""Outcomes as tables, CSV and JSON. Knows nothing of what the cases are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dessim.files import write_text
from dessim.results.rows import data_csv
from dessim.units import format_time, percent
from dessim.validate.outcome import Bounds, Outcome, broken, summaries

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("name", "kind", "split", "predicted_s", "measured_s", "error")


def case_table(outcomes: Sequence[Outcome]) -> Table:
    """A line a case."""
    from dessim.results.tables import table_of

    rows = [
        (_said(o.split), o.name, format_time(o.predicted_s), format_time(o.measured_s), percent(o.error, signed=True))
        for o in outcomes
    ]
    columns = ("split", "case", "predicted", "measured", "error")
    return table_of(columns, rows, left=("split", "case"), folds={"case": 20})


def summary_table(outcomes: Sequence[Outcome]) -> Table:
    """A line a split and kind: absolute errors."""
    from dessim.results.tables import table_of

    rows = [
        (_said(split), kind, f"{s.n}", percent(s.median_error), percent(s.p95_error))
        for split, kinds in summaries(outcomes).items()
        for kind, s in kinds.items()
    ]
    return table_of(("split", "kind", "cases", "median error", "95th percentile"), rows, left=("split", "kind"))


def write_csv(path: Path, outcomes: Sequence[Outcome]) -> None:
    """One line a case."""
    write_text(path, data_csv([outcome.to_json() for outcome in outcomes], COLUMNS))


def to_json(outcomes: Sequence[Outcome], bounds: Mapping[str, Bounds]) -> dict[str, Any]:
    """`{SPLIT: {KIND: {n, median_error, p95_error}}, "cases": [...], "broken": [...]}`."""
    return {
        **{split: {k: s.to_json() for k, s in kinds.items()} for split, kinds in summaries(outcomes).items()},
        "cases": [outcome.to_json() for outcome in outcomes],
        "broken": broken(outcomes, bounds),
    }


def _said(split: str) -> str:
    return split.replace("_", "-")
