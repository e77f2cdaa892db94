"""The study of crossovers: it reproduces part of its map, no winner is impossible, and its README agrees with it."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest

from dessim.sweep.grid import read_study

STUDY = "crossover"
ETHERNET = "CPUs, Ethernet"
RAW_BYTES_PER_S = 25e9 / 8  # of its NICs, above the rate of any payload


@pytest.fixture(scope="module")
def recorded(folder):
    with (folder / "crossover.csv").open() as file:
        return list(csv.DictReader(file))


def test_it_reproduces_cells_of_8_gpus(folder, plot, expected):
    study = read_study(folder / "study.toml")
    names = ("models/k3_ids2560.toml", "models/k100_ids40.toml")
    few = (point for point in study.points if point.settings["gpus"] == 8 and point.labels["model"] in names)
    found = plot.cells(plot.compute(replace(study, points=tuple(few)), jobs=1))
    assert len(found) == 4 and all(cell in expected for cell in found)


def test_the_axes_are_those_of_the_models(folder, plot):
    at = {file.stem: plot.size_of(file) for file in (folder / "models").glob("*.toml")}
    assert len(at) == 16
    for name, (ids, share) in at.items():
        assert name == f"k{100 * share:.0f}_ids{ids}"


def test_table_and_figure_agree_with_the_cells(folder, plot, expected):
    assert plot.table(expected) in (folder / "README.md").read_text()
    assert plot.draw(expected) == (folder / "crossover.svg").read_text()


def test_no_winner_is_impossible(plot, expected, recorded):
    assert len(expected) == 2 * 3 * 16 and not plot.wrong_with(expected)
    assert plot.wrong_with([{**expected[0], "least_share": 1.01}])
    ethernet = [row for row in recorded if row["cluster"] == ETHERNET and row["strategy"] != "ps_sync"]
    assert len(ethernet) == 3 * 16 * 4
    for row in ethernet:  # each worker has one NIC, which all that it sends crosses
        assert float(row["step_time_s"]) > float(row["busiest_worker_bytes"]) / RAW_BYTES_PER_S


def test_ties_are_leads_within_the_error_bar(expected, recorded):
    ties = [cell for cell in expected if cell["ties"]]
    assert 0 < len(ties) < len(expected)
    widest = max(float(row["high_s"]) / float(row["step_time_s"]) for row in recorded if row["high_s"])
    assert all(1 <= cell["lead"] < widest**2 for cell in ties)


def test_the_answer_in_the_readme_agrees_with_the_findings(expected):
    won = {
        family: {
            (c["gpus"], c["k_share"], c["ids_per_sample"])
            for c in expected
            if c["winner"] == family and not c["ties"] and (c["cluster"] == ETHERNET) == on_ethernet
        }
        for family, on_ethernet in (("DES", True), ("table-wise", False), ("row AllToAll", False), ("servers", True))
    }
    at_4 = {(4, share, ids) for share in (0.028, 0.1) for ids in (160, 640)}
    assert won["DES"] == at_4 | {(8, 0.028, 160), (16, 0.028, 160)} and not won["servers"]
    assert {gpus for gpus, _, _ in won["row AllToAll"]} == {512} and len(won["row AllToAll"]) == 12
    assert sum(gpus == 8 for gpus, _, _ in won["table-wise"]) == 16
    ties = [c for c in expected if "DES" in (c["winner"], *c["ties"]) and c["cluster"] != ETHERNET]
    assert {c["k_share"] for c in ties} == {0.028} and {c["gpus"] for c in ties} == {64, 512}
    assert not [c for c in expected if "servers" in (c["winner"], *c["ties"]) and c["cluster"] != ETHERNET]
    assert all(
        c["winner"] == "table-wise" for c in expected if c["cluster"] == ETHERNET and c["ids_per_sample"] == 2560
    )
    assert 1 / max(c["least_share"] for c in expected) > 1.38
