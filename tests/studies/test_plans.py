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
from tests.studies.test_lab_steps import errors_of

STUDY = "plans"
JOBS = 12


@pytest.fixture(scope="module")
def rows(folder):
    return list(csv.DictReader((folder / "plans.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def measured(folder):
    return json.loads((folder / "measured.json").read_text())


@pytest.fixture(scope="module")
def found(rows):
    cells = ((row["name"], row["kind"], row["split"]) for row in rows)
    times = ((float(row["predicted_s"]), float(row["measured_s"])) for row in rows)
    return choices([Outcome(*cell, *time) for cell, time in zip(cells, times, strict=True)])


def test_every_plan_of_every_job_was_trained(measured):
    trained = measured["plans"]["trained"]
    jobs = planned_jobs(read_plans())
    assert list(trained) == [job.name for job in jobs]
    for job in jobs:
        plans = {name: plan_of_trained(raw) for name, raw in trained[job.name].items()}
        assert plans.pop(OURS).gpus == plans["table_wise"].gpus
        assert plans == {name: job.plans[name] for name in plans} and len(plans) >= 6


def test_repeating_the_predictions_of_a_job_gives_the_same_steps(rows, measured):
    job = "mixed_6 x 0.15, media"
    outcomes = validate(ValidationRequest(kinds=["plans"], splits=["held_out"], only=job, measured=measured))
    predicted = {outcome.name: outcome.predicted_s for outcome in outcomes}
    kept = {row["name"]: float(row["predicted_s"]) for row in rows if row["name"].startswith(job)}
    assert predicted == pytest.approx(kept, rel=TOLERANCE) and len(kept) == 8


def test_the_page_shows_the_predictions(folder, plot, rows, tmp_path, monkeypatch):
    assert_page_shows(folder, plot, rows, tmp_path, monkeypatch)


def test_the_answer_in_the_readme_agrees_with_the_findings(folder, found, rows):
    text = (folder / "README.md").read_text()
    regrets = np.array([choice.regret for choice in found])
    correlations = [choice.rank_correlation for choice in found]
    assert len(found) == JOBS
    assert f"the fastest in {np.sum(regrets <= 0)} and within 5 %" in text
    assert f"in {np.sum(regrets <= 0.05)} ({100 * np.mean(regrets <= 0.05):.0f} %" in text
    assert regrets.max() < 0.12 and "never more than 12 % slower" in text
    assert f"correlation of {np.median(correlations):.2f} in the median and {min(correlations):.2f} at least" in text
    fetched = errors_of([row for row in rows if row["name"].endswith(": row_all_to_all")])
    assert f"(−{-100 * fetched.max():.0f} to −{-100 * fetched.min():.0f} %)" in text
