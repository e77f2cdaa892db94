"""The study of counted savings: its page agrees with the counts, which agree with the formulas."""

from __future__ import annotations

import pytest

from tests.pages import assert_same_page

STUDY = "counted_savings"


@pytest.fixture(scope="module")
def counted(folder, plot):
    return plot.load(folder / "counted.csv")[0]


@pytest.fixture(scope="module")
def rows(plot, study, counted):
    return plot.compare(study, counted)


def test_every_case_is_counted_with_every_seed(study, counted):
    grid = ("hosts", "ids_per_sample", "strategies", "seeds", "models")
    cases = 1
    for key in grid:
        cases *= len(study[key])
    keys = ("model", "ids_per_sample", "hosts", "strategy", "seed")
    assert (
        len({tuple(row[key] for key in keys) for row in counted}) == len(counted) == cases and len(study["seeds"]) == 5
    )


def test_des_sends_the_bytes_that_the_readme_works_out_by_hand(counted):
    cases = [r for r in counted if (r["model"], r["ids_per_sample"], r["hosts"]) == ("FM + LR", 80, 8)]
    ids, partials, labels = 7 / 8 * 4096 * 80 * 12, 8 * 2 * 7 / 8 * 4096 * 18 * 4, 7 * 4096 * 4
    for row in (r for r in cases if r["strategy"] == "des_all_reduce"):
        assert row["payload_bytes"] == pytest.approx(ids + partials + labels, rel=1e-3)  # and the counts of ids
    assert all(1.0 < row["frame_bytes"] / row["payload_bytes"] < 1.1 for row in cases)


def test_it_changes_no_file(folder, plot, tmp_path):
    assert plot.main(["--out", str(tmp_path)]) == 0
    for name in ("README.md", "savings.csv"):
        assert_same_page(tmp_path / name, folder / name)


def test_a_saving_that_the_formula_does_not_give_exits_3(plot, study, counted, rows, tmp_path, monkeypatch, capsys):
    wrong = [
        {**row, "frame_bytes": row["frame_bytes"] * 2} if row["strategy"] == "des_all_reduce" else row
        for row in counted
    ]
    monkeypatch.setattr(plot, "load", lambda path: (wrong, "a machine"))
    assert plot.problems(study, rows) == ""
    assert plot.main(["--out", str(tmp_path)]) == 3
    assert "by formula" in capsys.readouterr().err


def test_a_quick_count_is_compared_with_the_counts_that_are_kept(plot, study, counted, monkeypatch, capsys):
    few = [r for r in counted if (r["hosts"], r["seed"], r["model"]) == (2, 0, "FM + LR")]
    asked = []

    def measure(study):
        asked.append((study["hosts"], study["seeds"], [entry["name"] for entry in study["models"]]))
        return few, "a machine"

    monkeypatch.setattr(plot, "measure", measure)
    assert plot.check(study, counted) == 0 and asked == [([2], [0], ["FM + LR"])]
    assert capsys.readouterr().out.count("1.0000 of those kept") == len(few) == 12
    few[0] = {**few[0], "frame_bytes": few[0]["frame_bytes"] * 1.02}
    assert plot.check(study, counted) == 3


def test_the_answer_in_the_readme_agrees_with_the_findings(folder, expected, rows):
    text = " ".join((folder / "README.md").read_text().split())
    holds = {
        model: [f["claim_holds_from_ids"] for f in expected if f["model"] == model]
        for model in ("LR", "FM + LR", "DeepFM")
    }
    assert holds == {"LR": [None] * 4, "FM + LR": [20, 40, 40, 80], "DeepFM": [None] * 4}
    assert "on 2 hosts from 20 ids a sample on, on 4 and 6 hosts from 40, and on 8 hosts from 80" in text
    most = {model: max(f["most_saved"] for f in expected if f["model"] == model) for model in ("LR", "DeepFM")}
    assert (round(100 * most["LR"]), round(100 * most["DeepFM"])) == (30, 65)
    assert all(row["counted_saved"] < 0 for row in rows if row["ids_per_sample"] < 5)
