"""The study reproduces its expected.json and README, and rerunning it changes no byte."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest

from tests.pages import assert_same_page

STUDY = "paper_savings"


FILES = ("savings.csv", "savings.svg")


@pytest.fixture(scope="module")
def written(plot, tmp_path_factory):
    """The folder of the files that the study writes."""
    out = tmp_path_factory.mktemp("savings")
    assert plot.main(["--out", str(out)]) == 0
    return out


def test_it_reproduces_its_findings(folder, written):
    assert_same_page(written / "savings.csv", folder / "savings.csv")


def test_other_findings_exit_3_and_a_second_run_writes_the_same_bytes(
    folder, plot, expected, written, tmp_path, monkeypatch, capsys
):
    wrong = deepcopy(expected)
    wrong[0]["best_saving"] += 0.01
    (tmp_path / "expected.json").write_text(json.dumps(wrong))
    (tmp_path / "study.toml").write_bytes((folder / "study.toml").read_bytes())
    monkeypatch.setattr(plot, "HERE", tmp_path)
    assert plot.main(["--out", str(tmp_path)]) == 3
    assert "differ from expected.json" in capsys.readouterr().err
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_the_answer_in_the_readme_agrees_with_the_findings(expected):
    by_case = {(f["model"], f["ids_per_sample"], f["duplicates"]): f for f in expected}
    claim_holds_to = {
        m: [by_case[m, 500, d]["claim_holds_to"] for d in ("merged", "all")] for m in ("LR", "FM + LR", "DeepFM")
    }
    assert claim_holds_to == {"LR": [None, None], "FM + LR": [16, 64], "DeepFM": [2, 8]}
    loses = {m: [by_case[m, 500, d]["loses_from"]["ps_sync"] for d in ("merged", "all")] for m in ("FM + LR", "DeepFM")}
    assert loses == {"FM + LR": [256, 512], "DeepFM": [32, 64]}
    assert by_case["DeepFM", 500, "merged"]["loses_from"]["table_wise"] == 8
    assert all(f["loses_from"]["table_wise"] == 2 for (_, ids, _), f in by_case.items() if ids == 2000)
    lr = {d: [f["best_saving"] for (m, _, by), f in by_case.items() if (m, by) == ("LR", d)] for d in ("merged", "all")}
    assert 0.09 < max(lr["merged"]) < 0.1 and 0.4 < max(lr["all"]) <= 0.5
    assert all(f["loses_from"]["row_wise"] is None for f in by_case.values())
