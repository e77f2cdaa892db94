"""Training steps on the lab: predicted from a calibration and traces of few ranks, beside measured.

    python studies/lab_steps/plot.py     # from measured.json: writes the tables, lab_steps.svg and its data

`sudo dessim validate --lab --kinds steps --save studies/lab_steps/measured.json` measures anew, and
exits 3 when held-out cases break the bounds of dessim/validate/cases.toml; here a broken bound is told on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dessim.files import write_text
from dessim.results.report import percent
from dessim.results.scatter import predicted_against_measured
from dessim.results.study import page
from dessim.results.style import style_of
from dessim.units import format_time
from dessim.validate.outcome import Outcome, broken_bounds, summaries
from dessim.validate.request import bounds_of, read_cases
from dessim.validate.run import ValidationRequest, validate

HERE = Path(__file__).parent


def table(outcomes: list[Outcome], measured: dict[str, Any]) -> str:
    """In Markdown: the errors of each split, of each strategy, and every case."""
    lines = [
        f"Measured on {measured['steps']['machine']}.",
        "",
        "| split | cases | median error | 95th percentile |",
        "|---|---:|---:|---:|",
    ]
    for split, kinds in summaries(outcomes).items():
        if "steps" in kinds:
            found, name = kinds["steps"], split.replace("_", "-")
            lines.append(f"| {name} | {found.n} | {percent(found.median_error)} | {percent(found.p95_error)} |")
    lines += ["", "| held-out steps of | cases | median error | worst |", "|---|---:|---:|---:|"]
    held_out = [outcome for outcome in outcomes if outcome.split == "held_out"]
    for strategy in dict.fromkeys(_strategy(outcome) for outcome in held_out):
        errors = np.array([o.error for o in held_out if _strategy(o) == strategy])
        worst = errors[np.abs(errors).argmax()]
        lines.append(
            f"| {style_of(strategy).label} | {len(errors)} | {percent(float(np.median(np.abs(errors))))} "
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
                f"| {bed} | {style_of(_strategy(o)).label} | {format_time(o.predicted_s, 3)} "
                f"| {format_time(o.measured_s, 3)} | {percent(o.error, signed=True)} | {percent(busy)} |"
            )
    return "\n".join(lines) + "\n"


def _strategy(outcome: Outcome) -> str:
    return outcome.name.rpartition(": ")[2]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder for what is written (default: here)")
    options = parser.parse_args(arguments)
    measured = json.loads((HERE / "measured.json").read_text("utf-8"))
    outcomes = [o for o in validate(ValidationRequest(kinds=["steps"], measured=measured)) if o.kind == "steps"]
    made = table(outcomes, measured)
    write_text(options.out / "README.md", page(HERE, made))
    held_out = [o.to_json() for o in outcomes if o.split == "held_out"]
    predicted_against_measured(held_out, options.out / "lab_steps.svg")
    print(made, end="")
    for problem in broken_bounds(outcomes, bounds_of(read_cases())):
        print(f"lab_steps: {problem}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
