"""The study of equal cost: prices buy what a count by hand says, it repeats a finding, and its README agrees."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dessim.files import read_toml
from dessim.sweep.grid import read_study
from tests.pages import assert_same_page

STUDY = "equal_cost"


@pytest.fixture(scope="module")
def prices(folder):
    return read_toml(folder / "prices.toml")


@pytest.fixture(scope="module")
def fabrics(plot, study):
    return {entry["name"]: plot.fabric_of(**entry) for entry in study["grid"]["cluster"]}


def test_parts_and_prices_agree_with_a_count_by_hand(plot, fabrics, prices):
    counted = {name: (f.switches, f.ports, f.cables) for name, f in fabrics.items()}
    assert counted == {
        "fat tree 1:1": (32 + 32 + 16, 1024 + 2 * 2048, 1024 + 2048),
        "fat tree 2:1": (32 + 32 + 8, 1024 + 2 * 1024, 1024 + 1024),
        "fat tree 4:1": (72, 1024 + 2 * 512, 1024 + 512),
        "rail-optimised": (32 + 16, 1024 + 2 * 1024, 1024 + 1024),
        "rail-only": (8 * (4 + 2), 1024 + 2 * 1024, 1024 + 1024),
        "dragonfly": (128, 128 * (8 + 15 + 7), 1024 + 128 * (15 + 7) // 2),
        "HyperX 8x8": (64, 64 * (16 + 2 * 7 * 3), 1024 + 64 * 42 // 2),
        "torus 8x4x4": (128, 128 * (8 + 6 * 4), 1024 + 128 * 24 // 2),
    }
    each, part = fabrics["rail-only"].per_server(prices["price"])
    assert part == pytest.approx(8 * 1800 + 3072 / 128 * 600 + 2048 / 128 * 1500)
    assert each == 250_000 + part
    with pytest.raises(plot.UsageError, match="the budget buys 0 servers"):
        plot.purchases(list(fabrics.values()), prices | {"budget": 1})


def test_it_repeats_a_finding(folder, plot, fabrics, prices, expected):
    study = read_study(folder / "study.toml")
    some = replace(study, points=tuple(p for p in study.points if p.settings["strategy"] == "row_all_to_all"))
    found = plot.compute(some, [fabrics["rail-only"]], prices | {"scenario": prices["scenario"][:1]}, jobs=1)
    key = ("as assumed", "rail-only", "row_all_to_all")
    assert found == [row for row in expected if (row["scenario"], row["fabric"], row["strategy"]) == key]


def test_page_data_and_figure_show_the_findings(folder, plot, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        plot,
        "compute",
        lambda study, fabrics, *_: [row for row in expected if row["fabric"] in {f.name for f in fabrics}],
    )
    assert plot.main(["--out", str(tmp_path)]) == 0
    assert plot.main(["--quick"]) == 0 and capsys.readouterr().out.endswith("as recorded\n")
    assert_same_page(tmp_path / "README.md", folder / "README.md")
    for name in ("equal_cost.csv", "equal_cost.svg"):
        assert (tmp_path / name).read_text() == (folder / name).read_text()
    monkeypatch.setattr(plot, "compute", lambda *_: expected[1:])
    assert plot.main(["--quick"]) == 3


def test_what_is_bought_stays_within_the_budget(fabrics, prices, expected):
    assert len(expected) == len(fabrics) * len(prices["scenario"]) * 3
    for row in expected:
        assert prices["budget"] - 400_000 < row["spent"] <= prices["budget"]
        assert row["gpus"] == 8 * row["servers"]
        assert row["samples_per_s_per_dollar"] == pytest.approx(row["samples_per_s"] / row["spent"], rel=1e-4)


def test_the_answer_in_the_readme_agrees_with_the_findings(prices, expected):
    per_dollar = {(r["scenario"], r["fabric"], r["strategy"]): r["samples_per_s_per_dollar"] for r in expected}
    assumed, doubled, _ = (scenario["name"] for scenario in prices["scenario"])
    rails = {key[::2]: value for key, value in per_dollar.items() if key[1] == "rail-optimised"}
    for (scenario, fabric, strategy), value in per_dollar.items():
        assert value <= rails[scenario, strategy] * 1.001
        if fabric == "rail-only":
            assert value == rails[scenario, strategy]
    named = ("rail-optimised", "fat tree 1:1", "dragonfly", "fat tree 4:1")
    rows = [per_dollar[assumed, fabric, "row_all_to_all"] for fabric in named]
    assert rows == pytest.approx([45.6, 44.0, 43.7, 36.2], abs=0.05)
    gpus = {(r["scenario"], r["fabric"]): r["gpus"] for r in expected}
    assert gpus[assumed, "fat tree 4:1"] / gpus[assumed, "fat tree 1:1"] == pytest.approx(1.12, abs=0.005)
    for scenario, low, high in ((assumed, 0.14, 0.23), (doubled, 0.17, 0.28)):
        shares = [row["fabric_share"] for row in expected if row["scenario"] == scenario]
        assert (min(shares), max(shares)) == pytest.approx((low, high), abs=0.005)
    fabrics = dict.fromkeys(fabric for _, fabric, _ in per_dollar)
    lost = [
        1 - per_dollar[doubled, fabric, "row_all_to_all"] / per_dollar[assumed, fabric, "row_all_to_all"]
        for fabric in fabrics
    ]
    assert (min(lost), max(lost)) == pytest.approx((0.02, 0.04), abs=0.005)
    four = per_dollar[assumed, "fat tree 4:1", "table_wise"] / rails[assumed, "table_wise"]
    dragonfly = per_dollar[assumed, "dragonfly", "des_reduce_scatter"] / rails[assumed, "des_reduce_scatter"]
    assert (1 - four, 1 - dragonfly) == pytest.approx((0.69, 0.815), abs=0.005)
