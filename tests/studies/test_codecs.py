"""The study's tables follow from codecs.csv, and codecs.csv from trainings whose bytes equal the formula."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from tests.pages import assert_same_page

STUDY = "codecs"
GENERATED = ("README.md", "prices.csv")


def test_it_reproduces_its_findings(folder, plot, tmp_path):
    assert plot.main(["--out", str(tmp_path)]) == 0
    for name in GENERATED:
        assert_same_page(tmp_path / name, folder / name)


def test_every_codec_was_trained_with_every_seed_and_the_bytes_of_the_formula(study, plot, folder):
    rows = plot.read(folder / "codecs.csv")
    assert [(r["codec"], r["seed"]) for r in rows] == [(c["codec"], s) for c in study["codecs"] for s in study["seeds"]]
    assert all(r["recorded_bytes"] == r["formula_bytes"] > 0 for r in rows)
    forms = {form for c in study["codecs"] for form in c["codec"].replace("=", ",").replace(":", ",").split(",")}
    assert forms >= {"fp32", "bf16", "fp16", "fp6", "top_k", "threshold", "pruning"}


@pytest.mark.parametrize(
    ("row", "key", "value", "message"),
    [(1, "recorded_bytes", 1, "deviate from the formula"), (4, "auc", 0.5, "differ from expected.json")],
)
def test_other_findings_exit_3(row, key, value, message, folder, plot, tmp_path, monkeypatch, capsys):
    for name in ("study.toml", "expected.json", "README.md"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    rows = plot.read(folder / "codecs.csv")
    rows[row][key] = value
    (tmp_path / "codecs.csv").write_text(plot.data_csv(rows, plot.COLUMNS))
    monkeypatch.setattr(plot, "HERE", tmp_path)
    assert plot.main([]) == 3
    assert message in capsys.readouterr().err


def test_the_bytes_of_a_training_are_read_from_its_trace(plot, folder, tmp_path, capsys, monkeypatch):
    train = pytest.importorskip("des_ref.train", reason="the trainer needs the [train] extra")
    # Loaded by path, because another study has a trainings.py too.
    spec = importlib.util.spec_from_file_location("codecs_trainings", folder / "trainings.py")
    trainings = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, trainings)
    spec.loader.exec_module(trainings)
    from dessim.trace.io import load_trace

    path = tmp_path / "run.trace"
    flags = ["--data", "synthetic", "--model", "deepfm_ml100k", "--strategy", "des_reduce_scatter", "--codec", "fp6"]
    flags += ["--steps", "8", "--trace", str(path), "--trace-steps", "1", "--trace-warmup", "1", "--device", "cpu"]
    assert train.main(flags) == 0
    sizes = trainings.recorded(load_trace(path))
    assert sizes["recorded_bytes"] == sizes["formula_bytes"] > 0
    assert sizes["sent_bytes"] == 0  # a single worker sends nothing
    capsys.readouterr()


def test_the_answer_in_the_readme_agrees_with_the_findings(expected, folder):
    by_codec = {f["codec"]: f for f in expected["codecs"]}
    answer = (folder / "README.md").read_text("utf-8").split("![")[0]
    lossless = [by_codec[codec]["auc_lost"] for codec in ("bf16", "fp16", "fp6")]
    assert max(map(abs, lossless)) <= 0.0001 and "0.0001 or less" in answer
    for codec, lost in ((k, v["auc_lost"]) for k, v in by_codec.items() if k.startswith(("activations", "gradients"))):
        assert f"{lost:.4f}" in answer, codec
