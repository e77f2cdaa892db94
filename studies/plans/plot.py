"""Compare the planner's choice with other plans, trained on the lab.

    python studies/plans/plot.py     # write the tables, plans.svg and its data from the measurements of both splits

`sudo dessim validate --lab --kinds plans --save studies/plans/measured.json` measures the held-out jobs, and exits 3
when the bounds of dessim/validate/plans.toml are broken; this script reports a broken bound on stderr.
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
from dessim.units import format_time, percent
from dessim.validate.outcome import Outcome, label
from dessim.validate.plan_cases import read_plans
from dessim.validate.plans import OURS, Choice, broken_by, choices, plan_of_trained
from dessim.validate.run import ValidationRequest, validate
from dessim.workload.composed import describe

HERE = Path(__file__).parent
FILES = {"held_out": HERE / "measured.json", "development": HERE / "development.json"}
"""The measurements of each split."""


def table(outcomes: list[Outcome], found: list[Choice], measured: dict[str, dict[str, Any]]) -> str:
    """Return Markdown tables: the planner's plan of each job beside the fastest of the others, and every plan."""
    lines = [f"The {label(split)} jobs were measured on {of_split['machine']}." for split, of_split in measured.items()]
    lines += [
        "",
        "| split | jobs | planner's plan is the fastest | within 5 % of it | slower by at most "
        "| plan with the shortest prediction: within 5 % | rank correlation, median (least) "
        "| error of predicted steps, median (95th percentile) |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for split in measured:
        chosen = [choice for choice in found if choice.split == split]
        regrets = np.array([choice.regret for choice in chosen])
        correlations = [choice.rank_correlation for choice in chosen]
        errors = np.abs([o.error for o in outcomes if o.split == split])
        predicted = [regret_of_prediction(list(plans_of(outcomes, choice).values())) for choice in chosen]
        lines.append(
            f"| {label(split)} | {len(chosen)} | {np.sum(regrets <= 0)} | {np.sum(regrets <= 0.05)} "
            f"| {percent(float(regrets.max()))} | {np.sum(np.array(predicted) <= 0.05)} "
            f"| {np.median(correlations):.2f} ({min(correlations):.2f}) "
            f"| {percent(float(np.median(errors)))} ({percent(float(np.percentile(errors, 95)))}) |"
        )
    for split, of_split in measured.items():
        lines += ["", f"**{label(split)}**", ""]
        lines += tables_of(outcomes, [choice for choice in found if choice.split == split], of_split["trained"])
    return "\n".join(lines) + "\n"


def tables_of(outcomes: list[Outcome], found: list[Choice], trained: dict[str, Any]) -> list[str]:
    """The lines of the two tables of one split's jobs."""
    by_job = {choice.job: plans_of(outcomes, choice) for choice in found}
    lines = [
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
    return lines


def plans_of(outcomes: list[Outcome], choice: Choice) -> dict[str, Outcome]:
    """The outcomes of a job's plans, by the names of the plans."""
    return {o.name.rpartition(": ")[2]: o for o in outcomes if o.name.startswith(f"{choice.job}: ")}


def regret_of_prediction(plans: list[Outcome]) -> float:
    """How much longer the plan with the shortest predicted step takes than the fastest, relative to that."""
    return min(plans, key=lambda o: o.predicted_s).measured_s / min(o.measured_s for o in plans) - 1


def compared() -> tuple[str, Sequence[Row], Sequence[str]]:
    """The tables, the rows of the figure, and the broken bounds."""
    files = {split: json.loads(path.read_text("utf-8")) for split, path in FILES.items() if path.exists()}
    outcomes = [
        outcome
        for split, measured in files.items()
        for outcome in validate(ValidationRequest(kinds=["plans"], splits=[split], measured=measured))
    ]
    found = choices(outcomes)
    tables = table(outcomes, found, {split: measured["plans"] for split, measured in files.items()})
    return tables, [o.to_json() for o in outcomes], broken_by(found, read_plans()["bounds"])


def main(arguments: list[str] | None = None) -> int:
    return run_lab_study(__doc__, HERE, arguments, compared)


if __name__ == "__main__":
    sys.exit(main())
