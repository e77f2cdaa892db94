"""The study finds what its expected.json and README say, and rerunning it changes no byte."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "studies" / "paper_savings"


@pytest.fixture(scope="module")
def plot():
    spec = importlib.util.spec_from_file_location("paper_savings_plot", FOLDER / "plot.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found():
    return {
        (f["model"], f["ids_per_sample"], f["duplicates"]): f
        for f in json.loads((FOLDER / "expected.json").read_text())
    }


def test_it_runs_and_finds_what_is_expected(plot, tmp_path):
    assert plot.main(["--out", str(tmp_path)]) == 0
    first = [(tmp_path / name).read_bytes() for name in ("savings.csv", "savings.svg")]
    assert plot.main(["--out", str(tmp_path)]) == 0
    assert [(tmp_path / name).read_bytes() for name in ("savings.csv", "savings.svg")] == first
    assert first[0] == (FOLDER / "savings.csv").read_bytes()


def test_other_findings_exit_3(plot, tmp_path, monkeypatch, capsys):
    wrong = json.loads((FOLDER / "expected.json").read_text())
    wrong[0]["best_saving"] += 0.01
    (tmp_path / "expected.json").write_text(json.dumps(wrong))
    (tmp_path / "study.toml").write_bytes((FOLDER / "study.toml").read_bytes())
    monkeypatch.setattr(plot, "HERE", tmp_path)
    assert plot.main(["--out", str(tmp_path)]) == 3
    assert "differ from expected.json" in capsys.readouterr().err


def test_the_readmes_answer_is_what_was_found(found):
    to = {m: [found[m, 500, d]["claim_holds_to"] for d in ("merged", "all")] for m in ("LR", "FM + LR", "DeepFM")}
    assert to == {"LR": [None, None], "FM + LR": [8, 64], "DeepFM": [None, 8]}
    loses = {m: [found[m, 500, d]["loses_from"]["ps_sync"] for d in ("merged", "all")] for m in ("FM + LR", "DeepFM")}
    assert loses == {"FM + LR": [256, 512], "DeepFM": [32, 64]}
    assert found["DeepFM", 500, "merged"]["loses_from"]["table_wise"] == 8
    assert all(f["loses_from"]["table_wise"] == 2 for (_, ids, _), f in found.items() if ids == 2000)
    lr = {d: [f["best_saving"] for (m, _, by), f in found.items() if (m, by) == ("LR", d)] for d in ("merged", "all")}
    assert max(lr["merged"]) < 0 < max(lr["all"]) <= 0.5
    assert all(f["loses_from"]["row_wise"] is None for f in found.values())
