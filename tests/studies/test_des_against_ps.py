"""The study of DES against parameter servers: its README agrees with the measurements."""

from __future__ import annotations

import json

import pytest

from tests.pages import TOLERANCE, assert_same_page

STUDY = "des_against_ps"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_repeating_the_predictions_gives_the_expected_rows(plot, study, folder, expected, part):
    measured = json.loads((folder / "measured.json").read_text())
    with plot.in_study_folder():
        cases = plot.cases_of(study)
        rows = plot.compute(cases[part::6], measured)
    assert len(cases) == len(expected["rows"])
    for row, kept in zip(rows, expected["rows"][part::6], strict=True):
        assert [row[key] for key in plot.CASE] == [kept[key] for key in plot.CASE]
        assert [row[key] for key in plot.RESULTS] == pytest.approx([kept[key] for key in plot.RESULTS], rel=TOLERANCE)


def test_the_page_shows_the_expected_rows(folder, plot, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "compute", lambda cases, measured: expected["rows"])
    assert plot.main(["--out", str(tmp_path)]) == 0
    for name in ("README.md", "des_against_ps.csv"):
        assert_same_page(tmp_path / name, folder / name)


def test_the_answer_in_the_readme_agrees_with_the_findings(folder, expected):
    pairs = [p for p in expected["compared"] if (p["strategy"], p["against"]) == ("des_all_reduce", "ps_sync")]
    fm, deepfm = ([p for p in pairs if p["model"] == model] for model in ("fm", "deepfm"))
    speedups = sorted(round(p["measured_speedup"], 1) for p in fm)
    assert (speedups[0], speedups[-1]) == (4.1, 6.4)
    assert [round(100 * p["measured_saved"]) for p in deepfm] == [53, 35, 35]
    errors = sorted(p["predicted_speedup"] / p["measured_speedup"] - 1 for p in expected["compared"])
    text = (folder / "README.md").read_text()
    assert "4.1 to 6.4 times as fast" in text
    assert f"between −{-100 * errors[0]:.0f} and +{100 * errors[-1]:.0f} %" in text
