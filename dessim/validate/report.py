"""Outcomes of cases of any kind as tables, CSV and JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dessim.files import write_text
from dessim.results.rows import data_csv
from dessim.units import format_size, format_time, percent
from dessim.validate.outcome import Outcome, Summary, label, summaries
from dessim.validate.plans import Choice

if TYPE_CHECKING:
    from rich.table import Table

_BYTES = re.compile(r"\b(\d+) B\b")
COLUMNS = ("name", "kind", "split", "predicted_s", "measured_s", "error")


def case_table(outcomes: Sequence[Outcome]) -> Table:
    """One line per case."""
    from dessim.results.tables import table_of

    rows = [
        (
            label(o.split),
            _BYTES.sub(lambda size: format_size(float(size[1])), o.name),
            format_time(o.predicted_s),
            format_time(o.measured_s),
            percent(o.error, signed=True),
        )
        for o in outcomes
    ]
    columns = ("split", "case", "predicted", "measured", "error")
    return table_of(columns, rows, left=("split", "case"), folds={"case": 20}, drops=("split",))


def summary_table(outcomes: Sequence[Outcome]) -> Table:
    """One line per split and kind, with the absolute errors."""
    from dessim.results.tables import table_of

    rows = [
        (label(split), kind, f"{s.n}", percent(s.median_error), percent(s.p95_error), _covered(s))
        for split, kinds in summaries(outcomes).items()
        for kind, s in kinds.items()
    ]
    columns = ("split", "kind", "cases", "median error", "95th percentile", "in 80 % interval")
    return table_of(columns, rows, left=("split", "kind"), drops=("in 80 % interval", "95th percentile"))


def choice_table(choices: Sequence[Choice]) -> Table:
    """One line per job of plans.toml."""
    from dessim.results.tables import table_of

    rows = [
        (label(c.split), c.job, c.best, percent(c.regret, signed=True), f"{c.rank_correlation:.2f}") for c in choices
    ]
    columns = ("split", "job", "fastest plan", "planner's slower by", "rank correlation")
    left = ("split", "job", "fastest plan")
    folds = {"job": 20, "fastest plan": 20}
    return table_of(columns, rows, left=left, folds=folds, drops=("rank correlation", "split"))


def write_csv(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write one line per case."""
    write_text(path, data_csv([outcome.to_json() for outcome in outcomes], COLUMNS))


def to_json(outcomes: Sequence[Outcome], choices: Sequence[Choice], broken: Sequence[str]) -> dict[str, Any]:
    """`{SPLIT: {KIND: {n, median_error, p95_error}}, "cases": [...], "choices": [...], "broken": [...]}`."""
    return {
        **{split: {k: s.to_json() for k, s in kinds.items()} for split, kinds in summaries(outcomes).items()},
        "cases": [outcome.to_json() for outcome in outcomes],
        "choices": [asdict(choice) for choice in choices],
        "broken": list(broken),
    }


def _covered(summary: Summary) -> str:
    """How many measured times were within their intervals."""
    return "not known" if summary.covered is None else percent(summary.covered)
