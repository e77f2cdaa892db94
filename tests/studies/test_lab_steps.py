"""The study of predicted steps: its README states the errors of the predictions."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from tests.studies.lab_steps import assert_page_shows, assert_predicted_anew

STUDY = "lab_steps"


def errors_of(rows):
    return np.array([float(row["predicted_s"]) / float(row["measured_s"]) - 1 for row in rows])


@pytest.fixture(scope="module")
def rows(folder):
    return list(csv.DictReader((folder / "lab_steps.csv").read_text().splitlines()))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_repeating_the_predictions_gives_the_same_steps(folder, rows, part):
    measured = json.loads((folder / "measured.json").read_text())
    trained = measured["steps"]["trained"]
    assert len(trained) == len(rows)
    assert_predicted_anew(rows, measured, list(trained)[part::8])


def test_the_page_shows_the_predictions(folder, plot, rows, tmp_path, monkeypatch):
    assert_page_shows(folder, plot, rows, tmp_path, monkeypatch)


def test_the_answer_in_the_readme_agrees_with_the_findings(folder, rows):
    errors = np.abs(errors_of(rows))
    text = (folder / "README.md").read_text()
    assert f"By {100 * np.median(errors):.1f} % (median of {len(errors)} held-out steps" in text
    assert f"95th percentile is {100 * np.percentile(errors, 95):.0f} %" in text
    assert errors.max() < 0.11 and "none is off by more than 11 %" in text
    assert f"{len(errors)} steps, mean −{-100 * errors_of(rows).mean():.1f} %" in text
