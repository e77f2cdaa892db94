"""The study of oversubscription: it reproduces part of its findings, and its README agrees with them."""

from __future__ import annotations

from dataclasses import replace

from dessim.sweep.grid import read_study

STUDY = "oversubscription"
GPU_MEMORY_GB = 80


def test_it_reproduces_128_gpus_at_4_to_1(folder, plot, expected):
    study = read_study(folder / "study.toml")
    wanted = {"gpus": 128, "what_if": "none", "cluster": "4:1"}
    few = tuple(point for point in study.points if wanted.items() <= point.labels.items())
    rows = plot.compute(replace(study, points=few), jobs=1)
    assert len(rows) == 4 and all(row in expected for row in rows)


def test_table_and_figure_agree_with_the_rows(folder, plot, expected):
    assert plot.table(expected) in (folder / "README.md").read_text()
    assert plot.draw(expected) == (folder / "oversubscription.svg").read_text()


def test_no_step_is_impossible(plot, expected):
    assert len(expected) == 3 * 4 * (4 + 3)
    step = {tuple(row[key] for key in plot.POINT): row["step_time_s"] for row in expected}
    for row in expected:
        assert row["step_time_s"] >= max(row.get("least_nic_s", 0), row.get("least_gpu_s", 0))
        assert row["memory_GB"] < GPU_MEMORY_GB
        assert row["low_s"] < row["step_time_s"] < row["high_s"]
        wider = step[row["gpus"], row["what_if"], "1:1", row["strategy"]]
        assert row["step_time_s"] > 0.999 * wider, "a thinner fabric makes no step faster"
