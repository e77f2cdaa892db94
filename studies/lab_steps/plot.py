"""Compare training steps on the lab: predicted from a calibration and traces of few ranks, and measured.

    python studies/lab_steps/plot.py     # write the tables, lab_steps.svg and its data from measured.json

`sudo dessim validate --lab --kinds steps --save studies/lab_steps/measured.json` repeats the measurement, and exits 3
when held-out cases break the bounds of dessim/validate/cases.toml; this script reports a broken bound on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dessim.files import write_text
from dessim.results.scatter import predicted_against_measured
from dessim.results.study import page
from dessim.results.style import strategy_label
from dessim.units import format_time, percent
from dessim.validate.outcome import Outcome, broken_bounds, summaries
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
            name = split.replace("_", "-")
            lines.append(f"| {name} | {summary.n} | {percent(summary.median_error)} | {percent(summary.p95_error)} |")
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
            f"**{split.replace('_', '-')}**",
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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="output folder (default: this study)")
    options = parser.parse_args(arguments)
    measured = json.loads((HERE / "measured.json").read_text("utf-8"))
    outcomes = [o for o in validate(ValidationRequest(kinds=["steps"], measured=measured)) if o.kind == "steps"]
    tables = table(outcomes, measured)
    write_text(options.out / "README.md", page(HERE, tables))
    held_out = [o.to_json() for o in outcomes if o.split == "held_out"]
    predicted_against_measured(held_out, options.out / "lab_steps.svg")
    print(tables, end="")
    for problem in broken_bounds(outcomes, bounds_of(read_cases())):
        print(f"lab_steps: {problem}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
