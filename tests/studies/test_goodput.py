"""The study of goodput: the simulation repeats its findings and agrees with Young and Daly, and so does its README."""

from __future__ import annotations

import math

import pytest

from dessim.sim.faults.goodput import daly_goodput, daly_interval
from tests.pages import assert_same_page

STUDY = "goodput"


def test_it_repeats_its_findings_for_the_largest_job(plot, study, expected):
    case = study["case"][0]
    found = plot.compute(study | {"case": [case]}, study["gpus"][-1:])
    assert found == [row for row in expected if (row["case"], row["gpus"]) == (case["name"], study["gpus"][-1])]


def test_page_data_and_figure_show_the_findings(folder, plot, study, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plot, "compute", lambda study, scales: [row for row in expected if row["gpus"] in scales])
    assert plot.main(["--out", str(tmp_path)]) == 0
    assert plot.main(["--quick"]) == 0 and capsys.readouterr().out.endswith("as recorded\n")
    assert_same_page(tmp_path / "README.md", folder / "README.md")
    for name in ("goodput.csv", "goodput.svg"):
        assert (tmp_path / name).read_text() == (folder / name).read_text()
    monkeypatch.setattr(plot, "compute", lambda study, scales: expected[1:])
    assert plot.main(["--quick"]) == 3


def test_simulation_and_formulas_agree_and_shares_add_up(plot, study, expected):
    assert len(expected) == len(study["gpus"]) * len(study["case"])
    cases = {case["name"]: case for case in study["case"]}
    for row in expected:
        machine = plot.machine_of(study, cases[row["case"]], row["gpus"])
        assert row["daly_model"] == pytest.approx(daly_goodput(machine, daly_interval(machine)), rel=1e-4)
        assert row["young_interval_s"] == pytest.approx(
            math.sqrt(2 * machine.checkpoint * machine.mtbf / machine.nodes), rel=1e-4
        )
        assert abs(row["goodput_daly_interval"] - row["daly_model"]) <= row["margin_95"]
        assert row["best_interval_s"] == pytest.approx(row["daly_interval_s"], rel=0.02)
        parts = row["goodput_daly_interval"] + sum(row[key] for key in plot.COLUMNS[-3:])
        assert parts == pytest.approx(1.0, abs=1e-4)


def test_the_answer_in_the_readme_agrees_with_the_findings(expected):
    minute = {(r["case"], r["gpus"]): r for r in expected if r["case"].endswith("; 60 s")}
    for gpus, low, high in ((1024, 96.1, 97.8), (16384, 79.5, 89.1), (65536, 52.1, 74.2)):
        goodput = [100 * row["goodput_daly_interval"] for (_, n), row in minute.items() if n == gpus]
        assert (min(goodput), max(goodput)) == pytest.approx((low, high), abs=0.1)
    largest = [row for (_, gpus), row in minute.items() if gpus == 65536]
    restarts = [row["restart_share"] for row in largest]
    assert (min(restarts), max(restarts)) == pytest.approx((0.12, 0.31), abs=0.005)
    assert all(row["restart_share"] > row["checkpoint_share"] for row in largest)
    assert max(abs(row["best_interval_s"] / row["daly_interval_s"] - 1) for row in expected) < 0.02
    assert expected[-1]["young_interval_s"] / expected[-1]["best_interval_s"] == pytest.approx(1.27, abs=0.01)
    assert expected[-1]["between_failures_s"] / 600 == pytest.approx(4.64, abs=0.01)
