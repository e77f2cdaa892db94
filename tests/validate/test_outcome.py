"""Errors, summaries and verdicts, with numbers that can be checked by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from dessim.results.scatter import predicted_against_measured
from dessim.validate.outcome import Bounds, Outcome, broken_bounds, summaries
from dessim.validate.report import to_json, write_csv

BOUNDS = {"collectives": Bounds(0.05, 0.15)}


def outcomes(errors: list[float], split: str = "held_out", kind: str = "collectives") -> list[Outcome]:
    return [Outcome(f"{split} {i}", kind, split, 2e-3 * (1 + e), 2e-3) for i, e in enumerate(errors)]


def test_errors_are_relative_to_the_measured_time() -> None:
    too_long, too_short = outcomes([0.5, -0.5])
    assert too_long.error == pytest.approx(0.5) and too_short.error == pytest.approx(-0.5)


def test_summaries_are_of_absolute_errors_by_split_and_kind() -> None:
    cases = [*outcomes([-0.04, 0.02, -0.03]), *outcomes([0.2], "development"), *outcomes([0.1], kind="steps")]
    found = summaries(cases)
    assert list(found) == ["development", "held_out"] and list(found["held_out"]) == ["collectives", "steps"]
    summary = found["held_out"]["collectives"]
    assert (summary.n, summary.median_error, summary.p95_error) == (3, pytest.approx(0.03), pytest.approx(0.039))


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([0.04] * 19 + [0.14], []),
        ([0.06] * 20, ["median error 6.0%"]),
        ([0.01] * 8 + [0.3, 0.3], ["95th percentile of the error 30.0%"]),
        ([0.2] * 10, ["median", "95th percentile"]),
    ],
)
def test_bounds_hold_for_held_out_cases(errors: list[float], said: list[str]) -> None:
    lines = broken_bounds(outcomes(errors), BOUNDS)
    assert len(lines) == len(said) and all(part in line for part, line in zip(said, lines, strict=True))
    assert not broken_bounds(outcomes(errors, "development"), BOUNDS), "only held-out cases count"


def test_json_and_csv_name_every_case(tmp_path: Path) -> None:
    cases = outcomes([0.01, -0.02])
    found = to_json(cases, [], broken_bounds(cases, BOUNDS))
    assert found["held_out"]["collectives"]["n"] == 2 and found["broken"] == []
    assert [case["name"] for case in found["cases"]] == ["held_out 0", "held_out 1"]
    write_csv(tmp_path / "cases.csv", cases)
    rows = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert [float(row["predicted_s"]) for row in rows] == pytest.approx([2.02e-3, 1.96e-3])


def test_the_figure_shows_every_case_and_both_bounds(tmp_path: Path) -> None:
    cases = [*outcomes([0.01, -0.3]), *outcomes([0.02], kind="steps")]
    svg = predicted_against_measured([case.to_json() for case in cases], tmp_path / "figure.svg")
    assert "±5 %" in svg and "±15 %" in svg and "steps" in svg
    assert (tmp_path / "figure.svg").read_text().startswith("<?xml")
    assert len((tmp_path / "figure.csv").read_text().splitlines()) == 4
    with pytest.raises(ValueError, match="at least one"):
        predicted_against_measured([])
