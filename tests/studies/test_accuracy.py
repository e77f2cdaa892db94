"""DES learns what one process learns: in the study's tables, shown in its README, and in small trainings."""

from __future__ import annotations

import dataclasses
import shutil

import pandas as pd
import pytest

from tests.forked import run_forked

STUDY = "accuracy"


@pytest.fixture(scope="module")
def rows(folder):
    return pd.read_csv(folder / "accuracy.csv")


@pytest.fixture(scope="module")
def curves(folder):
    return pd.read_csv(folder / "curves.csv")


def test_every_training_has_a_row(plot, study, rows):
    planned = list(plot.trainings(study))
    keys = ["part", "split", "model", "method", "dtype", "seed"]
    assert rows[keys].apply(tuple, axis=1).tolist() == [tuple(getattr(t, key) for key in keys) for t in planned]


def test_des_and_one_process_learn_the_same(plot, study, rows):
    comparisons = plot.compare(study, rows)
    assert [(c["split"], c["model"]) for c in comparisons] == [
        (s, m) for s in ("random", "time") for m in ("LR", "FM", "DeepFM")
    ]
    assert all(c["apart"] < 1e-4 and abs(c["off"]) < 0.003 for c in comparisons)
    epochs = rows[rows.part == "equality"].groupby(["split", "model", "seed"]).best_epoch
    assert (epochs.nunique() == 1).all()


def test_stale_and_synchronous_trainings_see_equally_many_samples(study, rows, curves):
    stale = rows[rows.part == "staleness"]
    per_epoch = 80_000 // 1024 * 1024
    assert stale.samples_trained.between(
        study["staleness"]["epochs"] * per_epoch, study["staleness"]["epochs"] * 8e4
    ).all()
    assert (curves.groupby(["method", "seed"]).epoch.max() == study["staleness"]["epochs"]).all()
    for method in study["staleness"]["methods"]:
        trained = stale[stale.method == method["name"]]
        if "staleness" in method:
            assert (trained.stale_max <= method["staleness"]).all()
            assert (trained.stale_mean <= trained.stale_max).all()
        best = curves[curves.method == method["name"]].groupby("seed").validation_auc.max()
        assert best.tolist() == pytest.approx(trained.validation_auc.tolist(), abs=1e-5)  # the log is rounded


def test_tables_figure_and_expectation_agree_with_the_rows(plot, study, rows, curves, folder, expected):
    assert plot.table(study, rows) in (folder / "README.md").read_text("utf-8")
    assert plot.draw(study, rows, curves) == (folder / "accuracy.svg").read_text("utf-8")
    assert plot.same(plot.findings(study, rows), expected)
    expected["equality"][1]["des"] += 2e-4
    assert not plot.same(plot.findings(study, rows), expected)


def test_the_answer_in_the_readme_agrees_with_the_findings(plot, study, rows, folder, expected):
    text = (folder / "README.md").read_text("utf-8")
    assert max(abs(f["off"]) for f in plot.compare(study, rows)) < 0.00095 and "within 0.0009 of plain" in text
    sync, same_updates, *stale_means = [method["mean"] for method in expected["staleness"]]
    assert [round(sync, 3), round(same_updates, 3)] == [0.784, 0.787]
    assert [round(min(stale_means), 3), round(max(stale_means), 3)] == [
        0.787,
        0.789,
    ] and "reaches 0.787 to 0.789" in text
    stale = rows[rows.stale_max >= 0].groupby("method", sort=False)
    assert stale.stale_missed_mean.mean().between(1.4, 1.6).all()
    assert stale.stale_missed_max.max().tolist() == [3, 25, 37] and "from 3 to 25 and 37" in text


def test_a_deviation_of_des_exits_3(plot, folder, tmp_path, monkeypatch, capsys, rows):
    for name in ("study.toml", "curves.csv", "README.md", "expected.json"):
        shutil.copy(folder / name, tmp_path)
    wrong = rows.copy()
    wrong.loc[(wrong.method == "DES") & (wrong.part == "equality") & (wrong.model == "FM"), "auc"] += 2e-4
    wrong.to_csv(tmp_path / "accuracy.csv", index=False)
    monkeypatch.setattr(plot, "HERE", tmp_path)
    assert plot.main(["--out", str(tmp_path)]) == 3
    assert "DES and one process are 2.0e-04 apart" in capsys.readouterr().err


def test_it_trains_both_methods_and_reuses_kept_results(plot, study, tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.run", run_forked)
    tiny = {**study, "data": "synthetic", "workers": 2}
    tiny["models"] = [m for m in study["models"] if m["name"] == "LR"]
    tiny["equality"] = {**study["equality"], "splits": ["random"], "seeds": [0]}
    tiny["staleness"] = {**study["staleness"], "methods": []}
    one, des = plot.trainings(tiny)
    trained = []
    for training in (one, des):
        changed = dataclasses.replace(training, flags=(*training.flags, "--steps", "30"), epochs=1)
        row, curve = plot.result(changed, tiny, tmp_path)
        assert (row["workers"], row["samples_trained"], curve) == (training.processes, 30 * 1024, [])
        trained.append(row)
        assert plot.result(changed, {}, tmp_path) == (row, curve)  # it needs no study because it does not train again
    assert trained[0]["auc"] == pytest.approx(trained[1]["auc"], abs=1e-6) and trained[0]["auc"] > 0.5


def test_settings_fix_the_number_of_epochs(plot, study, folder):
    file = folder / "settings" / "deepfm.toml"
    last = list(plot.trainings(study))[-1]
    assert last.method == "async, staleness 16" and last.processes == study["workers"] + 1
    text = file.read_text("utf-8")
    assert (
        last.settings(file)
        == text.replace("epochs = 60", "epochs = 20").replace("patience = 4", "patience = 20")
        != text
    )
