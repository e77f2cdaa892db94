"""The study of oversubscription: it repeats part of its findings, and its README agrees with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dessim.sweep.grid import read_study
from tests.pages import assert_same_page

STUDY = "oversubscription"
GPU_MEMORY_GB = 80


@pytest.fixture(scope="module")
def steps(plot, expected):
    return {tuple(row[key] for key in plot.POINT): row["step_time_s"] for row in expected}


def test_it_repeats_128_gpus_at_4_to_1(folder, plot, expected):
    study = read_study(folder / "study.toml")
    wanted = {"gpus": 128, "what_if": "none", "cluster": "4:1"}
    few = tuple(point for point in study.points if point.labels.items() >= wanted.items())
    rows = plot.compute(replace(study, points=few), jobs=1)
    assert len(rows) == 4 and all(row in expected for row in rows)


def test_page_data_and_figure_show_the_findings(folder, plot, expected, tmp_path, monkeypatch, capsys):
    few = [row for row in expected if row.items() >= plot.QUICK.items()]
    monkeypatch.setattr(plot, "compute", lambda study, _: expected if len(study.points) == len(expected) else few)
    assert plot.main(["--out", str(tmp_path)]) == 0
    assert plot.main(["--quick"]) == 0 and capsys.readouterr().out.endswith("as recorded\n")
    assert_same_page(tmp_path / "README.md", folder / "README.md")
    for name in ("oversubscription.csv", "oversubscription.svg"):
        assert (tmp_path / name).read_text() == (folder / name).read_text()
    monkeypatch.setattr(plot, "compute", lambda *_: expected[1:])
    assert plot.main(["--quick"]) == 3


def test_no_step_is_impossible(plot, steps, expected):
    assert len(plot.spread(expected)) == 3 * 4 * (4 + 3) and len(expected) == 3 * 4 * (4 + 3) + 3
    for row in expected:
        assert row["step_time_s"] >= max(row.get("least_nic_s", 0), row.get("least_gpu_s", 0))
        assert row["memory_GB"] < GPU_MEMORY_GB
        assert row["low_s"] < row["step_time_s"] < row["high_s"]
        wider = steps[row["gpus"], row["what_if"], "1:1", row["strategy"]]
        assert row["step_time_s"] > 0.999 * wider, "a thinner fabric makes no step faster"


def test_the_answer_in_the_readme_agrees_with_the_findings(plot, steps, expected):
    found = {(row["gpus"], row["strategy"]): row for row in plot.needs(plot.spread(expected))}
    exchanges = ("table_wise", "row_all_to_all")
    longer = {key: 1 + row["loss_4:1"] for key, row in found.items()}
    assert longer[128, "row_all_to_all"] == pytest.approx(2.1, abs=0.05)
    assert longer[1024, "row_all_to_all"] == pytest.approx(2.2, abs=0.05)
    assert longer[128, "table_wise"] == pytest.approx(1.8, abs=0.05)
    assert longer[1024, "table_wise"] == pytest.approx(2.7, abs=0.05)
    assert longer[128, "des_reduce_scatter"] == pytest.approx(1.21, abs=0.005)
    assert longer[1024, "des_reduce_scatter"] == pytest.approx(1, abs=5e-4)
    at = (1024, "none", "4:1")
    assert steps[*at, "des_reduce_scatter"] / steps[*at, "row_all_to_all"] == pytest.approx(3.7, abs=0.05)
    assert max(row["gain_2x:nic_rate_1:1"] for row in found.values()) == pytest.approx(0.11, abs=0.005)
    assert max(row["gain_2x:nic_rate_4:1"] for row in found.values()) == pytest.approx(0.07, abs=0.005)
    cables = [row["gain_2x:uplink_rate_4:1"] for key, row in found.items() if key[1] in exchanges]
    assert (min(cables), max(cables)) == pytest.approx((0.57, 0.77), abs=0.005)
    hashed = {
        row["strategy"]: row["step_time_s"] / steps[128, "none", "4:1", row["strategy"]]
        for row in expected
        if row["cluster"] == plot.HASHED
    }
    assert hashed.pop("des_reduce_scatter") == pytest.approx(1.51, abs=0.005)
    assert sorted(hashed.values()) == pytest.approx([1.06, 1.07], abs=0.005)
