"""The study's tables follow from codecs.csv, and codecs.csv from trainings whose bytes are the formula's."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from tests.pages import assert_same_page

STUDY = "codecs"
MADE = ("README.md", "prices.csv")


def test_it_runs_and_finds_what_is_expected(folder, plot, tmp_path):
    assert plot.main(["--out", str(tmp_path)]) == 0
    for name in MADE:
        assert_same_page(tmp_path / name, folder / name)


def test_every_codec_was_trained_with_every_seed_to_the_byte(study, plot, folder):
    rows = plot.read(folder / "codecs.csv")
    assert [(r["codec"], r["seed"]) for r in rows] == [(c["codec"], s) for c in study["codecs"] for s in study["seeds"]]
    assert all(r["recorded_bytes"] == r["formula_bytes"] > 0 for r in rows)
    forms = {form for c in study["codecs"] for form in c["codec"].replace("=", ",").replace(":", ",").split(",")}
    assert forms >= {"fp32", "bf16", "fp16", "fp6", "top_k", "threshold", "pruning"}


@pytest.mark.parametrize(
    ("row", "key", "value", "said"),
    [(1, "recorded_bytes", 1, "are not the formula's"), (4, "auc", 0.5, "differ from expected.json")],
)
def test_other_findings_exit_3(row, key, value, said, folder, plot, tmp_path, monkeypatch, capsys):
    for name in ("study.toml", "expected.json", "README.md"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    rows = plot.read(folder / "codecs.csv")
    rows[row][key] = value
    (tmp_path / "codecs.csv").write_text(plot.data_csv(rows, plot.COLUMNS))
    monkeypatch.setattr(plot, "HERE", tmp_path)
    assert plot.main([]) == 3
    assert said in capsys.readouterr().err


def test_the_bytes_of_a_recorded_training_are_read_from_its_trace(plot, folder, tmp_path, capsys, monkeypatch):
    train = pytest.importorskip("des_ref.train", reason="the trainer needs the [train] extra")
    # By its path: another study has a trainings.py, too.
    spec = importlib.util.spec_from_file_location("codecs_trainings", folder / "trainings.py")
    trainings = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, trainings)
    spec.loader.exec_module(trainings)
    from dessim.trace.io import load_trace

    path = tmp_path / "run.trace"
    flags = ["--data", "synthetic", "--model", "deepfm_ml100k", "--strategy", "des_reduce_scatter", "--codec", "fp6"]
    flags += ["--steps", "8", "--trace", str(path), "--trace-steps", "1", "--trace-warmup", "1", "--device", "cpu"]
    assert train.main(flags) == 0
    found = trainings.recorded(load_trace(path))
    assert found["recorded_bytes"] == found["formula_bytes"] > 0
    assert found["sent_bytes"] == 0  # one worker sends nothing
    capsys.readouterr()


def test_the_readmes_answer_is_what_was_found(expected, folder):
    found = {f["codec"]: f for f in expected["codecs"]}
    answer = (folder / "README.md").read_text("utf-8").split("![")[0]
    lossless = [found[codec]["auc_lost"] for codec in ("bf16", "fp16", "fp6")]
    assert max(map(abs, lossless)) <= 0.0001 and "0.0001 or less" in answer
    for codec, lost in ((k, v["auc_lost"]) for k, v in found.items() if k.startswith(("activations", "gradients"))):
        assert f"{lost:.4f}" in answer, codec
