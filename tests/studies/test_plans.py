"""The study of the planner's choice: its page states what the trained plans show."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from dessim.validate.outcome import Outcome
from dessim.validate.plan_cases import planned_jobs, read_plans
from dessim.validate.plans import OURS, choices, plan_of_trained
from dessim.validate.run import ValidationRequest, validate
from tests.pages import TOLERANCE
from tests.studies.lab_steps import assert_page_shows

STUDY = "plans"
JOBS = 12


@pytest.fixture(scope="module")
def rows(folder):
    return list(csv.DictReader((folder / "plans.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def measured(plot):
    """The measurements of each split that was measured."""
    return {split: json.loads(path.read_text()) for split, path in plot.FILES.items() if path.exists()}


@pytest.fixture(scope="module")
def outcomes(rows):
    cells = ((row["name"], row["kind"], row["split"]) for row in rows)
    times = ((float(row["predicted_s"]), float(row["measured_s"])) for row in rows)
    return [Outcome(*cell, *time) for cell, time in zip(cells, times, strict=True)]


def test_every_plan_of_every_job_was_trained(measured, rows):
    assert list(measured) == list(dict.fromkeys(row["split"] for row in rows)) and "development" in measured
    for split, of_split in measured.items():
        trained = of_split["plans"]["trained"]
        jobs = planned_jobs(read_plans(), [split])
        assert list(trained) == [job.name for job in jobs]
        for job in jobs:
            plans = {name: plan_of_trained(raw) for name, raw in trained[job.name].items()}
            assert plans.pop(OURS).gpus == plans["table_wise"].gpus
            assert plans == {name: job.plans[name] for name in plans} and len(plans) >= 6


def test_repeating_predictions_gives_the_same_steps(rows, measured):
    job, names = "mixed_6 x 0.15, feed", ("table_wise", OURS)
    of_split = measured["development"]
    trained = {job: {name: of_split["plans"]["trained"][job][name] for name in names}}
    some = {**of_split, "plans": {**of_split["plans"], "trained": trained}}
    outcomes = validate(ValidationRequest(kinds=["plans"], splits=["development"], only=job, measured=some))
    predicted = {outcome.name: outcome.predicted_s for outcome in outcomes}
    kept = {row["name"]: float(row["predicted_s"]) for row in rows if row["name"] in predicted}
    assert predicted == pytest.approx(kept, rel=TOLERANCE) and len(kept) == len(names)


def test_the_page_shows_the_predictions(folder, plot, rows, tmp_path, monkeypatch):
    assert_page_shows(folder, plot, rows, tmp_path, monkeypatch)


def test_the_answer_in_the_readme_agrees_with_the_findings(folder, plot, outcomes, measured):
    text = (folder / "README.md").read_text()
    found = choices(outcomes)
    for split in measured:
        chosen = [choice for choice in found if choice.split == split]
        regrets = np.array([choice.regret for choice in chosen])
        share = f"within 5 % of the fastest in {np.sum(regrets <= 0.05)} ({100 * np.mean(regrets <= 0.05):.0f} %"
        assert len(chosen) == JOBS
        assert (
            f"Of {JOBS} {plot.label(split)} jobs, its plan was the fastest in {np.sum(regrets <= 0)} and {share}"
            in text
        )
        assert f"at most {100 * regrets.max():.0f} % slower" in text


def test_the_errors_in_the_readme_are_those_of_the_predictions(folder, plot, outcomes):
    text = (folder / "README.md").read_text()
    known = [o for o in outcomes if o.split == "development"]
    errors = np.array([o.error for o in known])
    assert f"{100 * np.median(np.abs(errors)):.1f} % in the median" in text
    predicted = [plot.regret_of_prediction(list(plot.plans_of(known, choice).values())) for choice in choices(known)]
    assert f"within 5 % of the fastest in {np.sum(np.array(predicted) <= 0.05)} of these jobs" in text
    for strategy, shown in (
        ("row_all_to_all", "row AllToAll ({development} in development jobs, {held_out} in held-out jobs)"),
        ("data_parallel", "data parallel ({development} and {held_out})"),
    ):
        ranges = {split: _range(outcomes, strategy, split) for split in ("development", "held_out")}
        assert shown.format(**ranges) in " ".join(text.split())


def _range(outcomes, strategy, split):
    errors = [100 * o.error for o in outcomes if o.split == split and o.name.endswith(f": {strategy}")]
    return f"{min(errors):+.0f} to {max(errors):+.0f} %".replace("-", "−")
