"""The trainer from its command line: what it learns and prints, and that the number of ranks does not matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from des_ref import train
from des_ref.data import movielens
from dessim.errors import DessimError
from tests.bench.trainers import Run

ML100K_AUC = 0.785  # DeepFM, random split: docs, quality references
KEYS = {
    "data", "fell_back", "samples", "auc", "logloss", "epochs", "steps", "step_time_s", "samples_per_s", "world_size",
    "strategy", "bytes_per_worker_per_step", "bytes_by_op",
}  # fmt: skip


@pytest.fixture
def few(tmp_path: Path) -> str:
    """Settings of a run on 20,000 synthetic samples."""
    path = tmp_path / "few.toml"
    path.write_text('[data]\nsource = "synthetic"\nsamples = 20000\n')
    return str(path)


def alone(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert train.main([*arguments, "--device", "cpu", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def on_ranks(ranks: int, folder: Path, *arguments: str) -> dict[str, Any]:
    out, said = folder / "out.json", folder / "said"
    run = Run(ranks, [*arguments, "--device", "cpu", "--json", "-o", str(out)], said)
    assert run.wait(240) == [0] * ranks, said.read_text()[-3000:]
    return json.loads(out.read_text())


def test_synthetic_clicks_are_learnt_reproducibly(
    few: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "epochs.jsonl"
    arguments = ("--config", few, "--model", str(tiny), "--batch", "512", "--epochs", "2", "--epoch-log", str(log))
    first = alone(capsys, *arguments)
    assert set(first) >= KEYS
    assert first["auc"] > 0.6 and first["data"] == "synthetic" and not first["fell_back"]
    assert [json.loads(line)["epoch"] for line in log.read_text().splitlines()] == [1, 2]
    out = tmp_path / "out.json"
    second = alone(capsys, *arguments, "-o", str(out))
    assert json.loads(out.read_text()) == second
    assert (first["auc"], first["logloss"]) == (second["auc"], second["logloss"])
    assert first["bytes_per_worker_per_step"] == 0  # one worker sends nothing


def test_a_diverging_run_ends_with_an_error_and_saves_its_batch(tiny: Path, tmp_path: Path) -> None:
    config = tmp_path / "wild.toml"
    config.write_text(f'model = "{tiny}"\n[data]\nsource = "synthetic"\nsamples = 2000\n[rows]\ninit_std = 1e200\n')
    log = tmp_path / "log" / "epochs.jsonl"
    with pytest.raises(DessimError, match=r"rank 0: training diverged in epoch 1, step 1: the loss is") as caught:
        train.main(["--config", str(config), "--device", "cpu", "--epoch-log", str(log)])
    assert caught.value.exit_code == 3
    (file,) = log.parent.glob("diverged-*")
    assert f"its samples are in {file}; lower optimizer.rows.rate" in str(caught.value)
    batch = np.load(file, allow_pickle=False)
    assert file.name == "diverged-step-1-rank-0.npz" and len(batch["labels"]) == 1024
    assert len(batch["ids"]) == len(batch["field"]) == len(batch["sample"]) and batch["sample"].max() == 1023


def test_an_autoencoder_learns_profiles(few: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "profiles.toml"
    head = 'schema_version = 1\nname = "profiles"\n[input]\nfields = 3\nids_per_sample = 9.0\nvocabulary = 60\n'
    model.write_text(f'{head}[embedding]\nwidth = 4\n[[operators]]\nkind = "fvae"\nwidths = [8]\nlatent = 3\n')
    log = tmp_path / "epochs.jsonl"
    arguments = ("--config", few, "--model", str(model), "--batch", "500", "--epoch-log", str(log))
    found = alone(capsys, *arguments, "--epochs", "2")
    first, last = (json.loads(line)["validation_loss"] for line in log.read_text().splitlines())
    # 9 ids, 20 per field: uniform predictions have a loss of 9 log 20 = 27.
    assert first > last and found["loss"] < 27 and found["auc"] is None and found["logloss"] is None


def test_criteo_file_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.txt"
    rows = ("\t".join([str(i % 2), *([str(i % 2)] * 13), *([f"{i % 3:08x}"] * 26)]) for i in range(200))
    file.write_text("\n".join(rows) + "\n")
    result = alone(capsys, "--data", str(file), "--model", "deepfm", "--batch", "32", "--epochs", "2")
    assert result["data"] == str(file) and result["samples"] == {"train": 160, "validation": 20, "test": 20}
    assert result["bad_rows"] == 0
    file.write_text("label\n" + file.read_text())
    log = tmp_path / "run" / "epochs.jsonl"
    arguments = ["--data", str(file), "--model", "deepfm", "--batch", "32", "--steps", "2", "--epoch-log", str(log)]
    assert train.main([*arguments, "--device", "cpu", "--json", "--max-bad-rows", "1"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["bad_rows"] == 1
    assert (
        f"bad rows left out: 1, listed in {log.parent / 'bad-rows.tsv'}; the first is line 1: 1 columns" in captured.err
    )


def test_without_network_the_fallback_to_synthetic_data_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(movielens.sys, "executable", "/bin/false")
    assert train.main(["--steps", "2", "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["fell_back"] and result["data"] == "synthetic" and "pip cannot download" in result["fallback_reason"]
    assert "SYNTHETIC" in captured.err


@pytest.mark.slow
def test_movielens_auc_equals_the_reference(wheel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = alone(capsys, "--data", str(wheel))
    assert result["data"] == "ml-100k"
    assert result["auc"] == pytest.approx(ML100K_AUC, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["des_all_reduce", "des_reduce_scatter"])
def test_the_number_of_ranks_does_not_change_the_auc(
    strategy: str, few: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In float64; in float32 rounding differences grow, and runs differ by about 3e-4."""
    small = ("--config", few, "--model", str(tiny), "--steps", "30", "--dtype", "float64")
    arguments = (*small, "--strategy", strategy)
    one, two = alone(capsys, *arguments), on_ranks(2, tmp_path, *arguments)
    assert two["world_size"] == 2 and two["bytes_per_worker_per_step"] > 0
    assert two["auc"] == pytest.approx(one["auc"], abs=1e-4)
    assert two["logloss"] == pytest.approx(one["logloss"], abs=1e-9)
