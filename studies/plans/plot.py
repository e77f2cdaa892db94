"""Hold the planner's choice against other plans, trained on the lab.

    python studies/plans/plot.py     # write the tables, plans.svg and its data from measured.json

`sudo dessim validate --lab --kinds plans --save studies/plans/measured.json` repeats the measurement, and exits 3 when
the bounds of dessim/validate/plans.toml are broken; this script reports a broken bound on stderr.
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
from dessim.units import format_time, percent
from dessim.validate.outcome import Outcome
from dessim.validate.plan_cases import read_plans
from dessim.validate.plans import OURS, Choice, broken_by, choices, plan_of_trained
from dessim.validate.run import ValidationRequest, validate
from dessim.workload.composed import describe

HERE = Path(__file__).parent


def table(outcomes: list[Outcome], found: list[Choice], measured: dict[str, Any]) -> str:
    """Return Markdown tables: the planner's plan of each job beside the fastest of the others, and every plan."""
    trained = measured["plans"]["trained"]
    by_job = {
        c.job: {o.name.rpartition(": ")[2]: o for o in outcomes if o.name.startswith(f"{c.job}: ")} for c in found
    }
    regrets = np.array([choice.regret for choice in found])
    correlations = [choice.rank_correlation for choice in found]
    errors = np.abs([o.error for o in outcomes])
    lines = [
        f"Measured on {measured['plans']['machine']}.",
        "",
        "| jobs | planner's plan is the fastest | within 5 % of it | slower by at most "
        "| rank correlation, median (least) | error of predicted steps, median |",
        "|---:|---:|---:|---:|---:|---:|",
        f"| {len(found)} | {np.sum(regrets <= 0)} | {np.sum(regrets <= 0.05)} | {percent(float(regrets.max()))} "
        f"| {np.median(correlations):.2f} ({min(correlations):.2f}) | {percent(float(np.median(errors)))} |",
        "",
        "| bed, model | the planner's plan | its step | fastest other plan | its step | rank correlation |",
        "|---|---|---:|---|---:|---:|",
    ]
    for choice in found:
        plans = by_job[choice.job]
        ours = plan_of_trained(trained[choice.job][OURS])
        chosen = describe(ours.tables) if ours.tables else ours.strategy
        other = min((name for name in plans if name != OURS), key=lambda name: plans[name].measured_s)
        lines.append(
            f"| {choice.job} | {chosen} | {format_time(plans[OURS].measured_s, 3)} | {other} "
            f"| {format_time(plans[other].measured_s, 3)} | {choice.rank_correlation:.2f} |"
        )
    lines += ["", "| bed, model | plan | predicted | measured | error | cores busy |", "|---|---|---:|---:|---:|---:|"]
    for choice in found:
        for name, o in sorted(by_job[choice.job].items(), key=lambda pair: pair[1].measured_s):
            lines.append(
                f"| {choice.job} | {name} | {format_time(o.predicted_s, 3)} | {format_time(o.measured_s, 3)} "
                f"| {percent(o.error, signed=True)} | {percent(trained[choice.job][name]['busy'])} |"
            )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="output folder (default: this study)")
    options = parser.parse_args(arguments)
    measured = json.loads((HERE / "measured.json").read_text("utf-8"))
    outcomes = [o for o in validate(ValidationRequest(kinds=["plans"], measured=measured)) if o.kind == "plans"]
    found = choices(outcomes)
    tables = table(outcomes, found, measured)
    write_text(options.out / "README.md", page(HERE, tables))
    predicted_against_measured([o.to_json() for o in outcomes], options.out / "plans.svg")
    print(tables, end="")
    for problem in broken_by(found, read_plans()["bounds"]):
        print(f"plans: {problem}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
