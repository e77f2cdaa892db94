"""The study of fabrics: it reproduces its findings at 64 GPUs, and its README agrees with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dessim.cluster.check import check
from dessim.sweep.grid import read_study

STUDY = "fabrics"


def test_every_fabric_is_valid_and_only_the_fabrics_differ(plot, study):
    clusters = [plot.cluster_of(fabric) for fabric in study["grid"]["cluster"]]
    assert len(clusters) == 5 and [check(c) for c in clusters] == [[]] * 5
    assert {c.n_gpus for c in clusters} == {1024}
    for part in ("gpu", "transport", "node"):
        assert len({str(getattr(c, part)) for c in clusters}) == 1


def test_it_reproduces_its_findings_at_64_gpus(folder, plot, expected):
    study = read_study(folder / "study.toml")
    at_64 = tuple(point for point in study.points if point.settings["gpus"] == 64)
    rows = plot.compute(replace(study, points=at_64), jobs=1)
    assert rows == [row for row in expected if row["gpus"] == 64]
    for row in rows:
        parts = row["compute_s"] + row["exposed_comm_s"] + row["idle_s"]
        assert parts == pytest.approx(row["step_time_s"], rel=1e-3)


def test_table_and_figure_agree_with_the_rows(folder, plot, study, expected):
    assert plot.table(study["grid"], expected) in (folder / "README.md").read_text()
    assert plot.draw(study["grid"], expected) == (folder / "fabrics.svg").read_text()
    assert len((folder / "fabrics.csv").read_text().splitlines()) == 1 + len(expected) == 31


def test_the_answer_in_the_readme_agrees_with_the_findings(expected):
    step = {(r["fabric"], r["gpus"], r["strategy"]): r["step_time_s"] for r in expected}
    bound = {(r["fabric"], r["gpus"], r["strategy"]): r["bound_by"] for r in expected}
    fabrics = list(dict.fromkeys(r["fabric"] for r in expected))
    best = {key: step["rail-optimised", *key[1:]] for key in step}
    slower = {key: seconds / best[key] - 1 for key, seconds in step.items()}
    assert 0.055 < max(slower[f, 64, s] for f in fabrics for s in ("table_wise", "row_all_to_all")) < 0.065
    assert bound["rail-optimised", 1024, "row_all_to_all"] == "latency"
    rows = [slower[fabric, 1024, "row_all_to_all"] for fabric in ("leaf-spine 2:1", "torus 8x4x4", "dragonfly")]
    assert rows == pytest.approx([0.09, 0.10, 0.02], abs=0.01)
    owners = [step[fabric, 1024, "table_wise"] for fabric in fabrics if fabric != "leaf-spine 2:1"]
    assert owners == pytest.approx([16.2e-3] * 4, rel=0.01)
    assert step["leaf-spine 2:1", 1024, "table_wise"] == pytest.approx(28.1e-3, rel=0.01)
    direct = [1 + slower[f, n, "des_reduce_scatter"] for f in ("dragonfly", "torus 8x4x4") for n in (64, 1024)]
    assert (min(direct), max(direct)) == pytest.approx((1.5, 5.4), abs=0.05)
