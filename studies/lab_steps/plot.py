"""Compare training steps on the lab: predicted from a calibration and traces of few ranks, and measured.

    python studies/lab_steps/plot.py     # write the tables, lab_steps.svg and its data from measured.json

`sudo dessim validate --lab --kinds steps --save studies/lab_steps/measured.json` repeats the measurement, and exits 3
when held-out cases break the bounds of dessim/validate/cases.toml; this script reports a broken bound on stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dessim.results.rows import Row
from dessim.results.study import run_lab_study
from dessim.results.style import strategy_label
from dessim.units import format_time, percent
from dessim.validate.outcome import Outcome, broken_bounds, label, summaries
from dessim.validate.request import bounds_of, read_cases
from dessim.validate.run import ValidationRequest, validate

HERE = Path(__file__).parent


def table(outcomes: list[Outcome], measured: dict[str, Any]) -> str:
    """Return Markdown tables: the errors of each split and strategy, and every case."""
    lines = [
        f"Measured on {measured['steps']['machine']}.",
        "",
        "| split | cases | median error | 95th percentile |",
        "|---|---:|---:|---:|",
    ]
    for split, kinds in summaries(outcomes).items():
        if "steps" in kinds:
            summary = kinds["steps"]
            errors = f"{percent(summary.median_error)} | {percent(summary.p95_error)}"
            lines.append(f"| {label(split)} | {summary.n} | {errors} |")
    lines += ["", "| held-out steps, by strategy | cases | median error | worst |", "|---|---:|---:|---:|"]
    held_out = [outcome for outcome in outcomes if outcome.split == "held_out"]
    for strategy in dict.fromkeys(_strategy(outcome) for outcome in held_out):
        errors = np.array([o.error for o in held_out if _strategy(o) == strategy])
        worst = errors[np.abs(errors).argmax()]
        lines.append(
            f"| {strategy_label(strategy)} | {len(errors)} | {percent(float(np.median(np.abs(errors))))} "
            f"| {percent(float(worst), signed=True)} |"
        )
    for split in summaries(outcomes):
        lines += [
            "",
            f"**{label(split)}**",
            "",
            "| bed, model | strategy | predicted | measured | error | cores busy |",
            "|---|---|---:|---:|---:|---:|",
        ]
        for o in (o for o in outcomes if o.split == split):
            bed = o.name.rpartition(": ")[0]
            busy = measured["steps"]["trained"][o.name]["busy"]
            lines.append(
                f"| {bed} | {strategy_label(_strategy(o))} | {format_time(o.predicted_s, 3)} "
                f"| {format_time(o.measured_s, 3)} | {percent(o.error, signed=True)} | {percent(busy)} |"
            )
    return "\n".join(lines) + "\n"


def _strategy(outcome: Outcome) -> str:
    return outcome.name.rpartition(": ")[2]


def compared() -> tuple[str, Sequence[Row], Sequence[str]]:
    """The tables, the rows of the figure, and the broken bounds."""
    measured = json.loads((HERE / "measured.json").read_text("utf-8"))
    outcomes = [o for o in validate(ValidationRequest(kinds=["steps"], measured=measured)) if o.kind == "steps"]
    held_out = [o.to_json() for o in outcomes if o.split == "held_out"]
    broken = [f"lab_steps: {problem}" for problem in broken_bounds(outcomes, bounds_of(read_cases()))]
    return table(outcomes, measured), held_out, broken


def main(arguments: list[str] | None = None) -> int:
    return run_lab_study(__doc__, HERE, arguments, compared)


if __name__ == "__main__":
    sys.exit(main())
