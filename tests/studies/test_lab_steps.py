"""The study of predicted steps: its README states the errors of the predictions."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from tests.pages import assert_same_page

STUDY = "lab_steps"


def errors_of(rows):
    return np.array([float(row["predicted_s"]) / float(row["measured_s"]) - 1 for row in rows])


@pytest.mark.slow
def test_repeating_the_predictions_changes_no_file(folder, plot, tmp_path):
    assert plot.main(["--out", str(tmp_path)]) == 0
    for name in ("README.md", "lab_steps.csv"):
        assert_same_page(tmp_path / name, folder / name)


def test_the_answer_in_the_readme_agrees_with_the_findings(folder):
    rows = list(csv.DictReader((folder / "lab_steps.csv").read_text().splitlines()))
    errors = np.abs(errors_of(rows))
    text = (folder / "README.md").read_text()
    assert f"By {100 * np.median(errors):.1f} % (median of {len(errors)} held-out steps" in text
    assert f"95th percentile is {100 * np.percentile(errors, 95):.0f} %" in text
    assert errors.max() < 0.11 and "none is off by more than 11 %" in text
    assert f"{len(errors)} steps, mean −{-100 * errors_of(rows).mean():.1f} %" in text
