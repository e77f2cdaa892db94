"""The study of measured steps: its findings, its bounds, and its numbers worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest

from dessim.units import parse_share
from tests.pages import assert_same_page

STUDY = "mlperf"


def test_it_reproduces_its_findings_and_changes_no_file(folder, plot, tmp_path):
    assert plot.main(["--out", str(tmp_path)]) == 0
    for name in ("README.md", "mlperf.csv"):
        assert_same_page(tmp_path / name, folder / name)


def test_other_readings_beyond_their_bound_than_those_named_exit_3(plot, study, expected):
    assert plot.beyond(study, expected) == ""
    study = {"software": [dict(software) for software in study["software"]]}
    study["software"][0]["bound"] = "5 %"
    assert plot.beyond(study, expected) == "HugeCTR: beyond 5 %: 8 A100, 8 B200, 8 H200"
    study["software"][0] |= {"bound": "50 %", "missed": ["8 B200"]}
    assert plot.beyond(study, expected) == "HugeCTR: beyond 50 %: none"


def test_each_factor_makes_its_reading_come_out(study, expected):
    for software in study["software"]:
        (row,) = (r for r in expected["readings"] if r["software"] == software["name"] and r["fitted"])
        assert row["predicted_s"] == pytest.approx(row["measured_s"], rel=1e-4)
        assert sum(1 for entry in software["readings"] if entry.get("fitted")) == 1


def test_predictions_are_in_the_order_of_the_readings(expected):
    """PyTorch's with AMP, and those without."""
    for name, is_half in (("HugeCTR", False), ("PyTorch", True), ("PyTorch", False)):
        rows = [r for r in expected["readings"] if r["software"] == name and r["name"].endswith("AMP") is is_half]
        by_measured, by_predicted = (sorted(rows, key=lambda r: r[key]) for key in ("measured_s", "predicted_s"))
        assert [row["name"] for row in by_measured] == [row["name"] for row in by_predicted]


def test_the_readme_agrees_with_the_findings(folder, study, expected):
    errors = {row["name"]: row["error"] for row in expected["readings"]}
    assert max(abs(errors["8 A100"]), abs(errors["8 H200"])) < 0.10
    assert errors["8 B200"] == pytest.approx(-0.18, abs=5e-3)
    pytorch = [abs(row["error"]) for row in expected["readings"] if row["software"] == "PyTorch"]
    assert 0.13 < max(pytorch) < 0.15 < parse_share(study["software"][1]["bound"])
    text = (folder / "README.md").read_text()
    assert "Within 10 % on 8 A100 and 8 H200" in text and "Within 15 % on 8 A100" in text


def test_the_step_of_8_h100_by_hand(plot, study):
    software = study["software"][0]
    reading = plot.read(software, software["readings"][0])
    symbols, gpu = reading.symbols, reading.cluster.gpu
    (ops,) = reading.compute
    samples = 6912
    # Three low-rank cross layers, the top mlp on 27 vectors, and the bottom mlp; bias-free multiply-adds.
    vectors, rank = 27 * 128, 512
    top, bottom = (vectors, 1024, 1024, 512, 256, 1), (13, 512, 256, 128)
    layers = sum(a * b for widths in (top, bottom) for a, b in pairwise(widths))
    multiply_adds = 3 * 2 * vectors * rank + layers
    assert symbols["A"] == multiply_adds + vectors  # and the cross network's own output
    products = sum(op.products for op in ops.values())
    ideal = 6 * multiply_adds * samples / (989.4e12 * 0.8)
    assert ideal == pytest.approx(0.84e-3, rel=0.01) and products == pytest.approx(1.01e-3, rel=0.01)
    assert ideal < products < 1.3 * ideal
    pooled = samples * 214 * 512 + samples * 26 * 256
    assert ops["pool"].rest == pytest.approx(pooled / (gpu.memory_bandwidth * 0.77) + 6 * 2.5e-6, rel=1e-6)
    planned = {op.name: op for op in reading.plan.ops}
    assert planned["pooled"].bytes(symbols) == samples * 26 * 128 * 2
    assert planned["dense_grad"].bytes(symbols) == pytest.approx(32.1e6, rel=0.01)
    # At most what NVLink carries in the time, and no less than it needs.
    step = reading.step(1.0, "compute")
    nvlink = 2 * planned["pooled"].bytes(symbols) * 7 / 8 / reading.cluster.node.nvlink.capacity
    assert nvlink < step.exposed_comm_s < 1.5 * nvlink
