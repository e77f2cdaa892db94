"""The study of unequal tables: steps and bytes of the busiest host stay within their bounds, and its README says so."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from dessim.validate.step_cases import read_steps, step_cases
from tests.studies.lab_steps import assert_page_shows, assert_predicted_anew

STUDY = "uneven_tables"


@pytest.fixture(scope="module")
def rows(folder):
    return list(csv.DictReader((folder / "uneven_tables.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def measured(folder):
    return json.loads((folder / "measured.json").read_text())


@pytest.mark.slow
def test_repeating_predictions_gives_the_same_steps(rows, measured):
    """Some of the cases: table-wise, row-wise and servers, with the measurements of the page."""
    assert_predicted_anew(rows, measured, [row["name"] for row in rows][::4], only="uneven")


def test_the_page_shows_the_predictions(folder, plot, rows, tmp_path, monkeypatch):
    assert_page_shows(folder, plot, rows, tmp_path, monkeypatch)


def test_a_busiest_host_that_sends_more_breaks_the_bound(plot):
    assert plot.problems([], {"switch_8, uneven: row_wise": (1.0e6, 1.02e6)}) == []
    (line,) = plot.problems([], {"switch_8, uneven: row_wise": (1.0e6, 1.04e6)})
    assert line == "switch_8, uneven: row_wise: the busiest host sent 1040000 bytes, predicted 1000000"


def test_every_held_out_case_was_measured(rows):
    cases = step_cases(read_steps(), ["held_out"], quick=False)
    assert {case.name for case in cases if case.model == "uneven"} == {row["name"] for row in rows}


def test_the_answer_in_the_readme_agrees_with_the_findings(folder, rows):
    errors = np.abs([float(row["predicted_s"]) / float(row["measured_s"]) - 1 for row in rows])
    text = (folder / "README.md").read_text()
    assert f"median error of {len(errors)} held-out steps is {100 * np.median(errors):.1f} %" in text
    assert f"95th percentile {100 * np.percentile(errors, 95):.0f} %" in text
