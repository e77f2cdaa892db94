"""Settings and exit codes: a mistake is one line that names the key, with the right exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from des_ref import bench, train
from des_ref.certify import program as certify
from des_ref.cli import run
from des_ref.config import load_settings
from dessim.errors import FileError


def test_shipped_settings_load_and_flags_win() -> None:
    settings = load_settings(None, {"training.batch": 64, "data.source": "synthetic"})
    assert (settings.training.batch, settings.data.source, settings.model) == (64, "synthetic", "deepfm_ml100k")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('model = "fm"\n[training]\nbatchsize = 3', "training.batchsize: unknown key"),
        ('model = "fm"\n[rows]\ninit_std = -1', "rows.init_std: Input should be greater than or equal to 0"),
        (
            'model = "fm"\n[optimizer.rows]\nname = "ftrl"\nrate = 0',
            "optimizer.rows.rate: Input should be greater than 0",
        ),
        ('model = "fm"\n[optimizer.rows]\nname = "sgd"\neps = 1', "optimizer.rows.eps: unknown key"),
        (
            'model = "fm"\n[optimizer.rows]\nname = "lamb"',
            "optimizer.rows.name: there is no 'lamb'; use sgd, rowwise_ad",
        ),
        ('model = "fm"\n[optimizer.rows]\nrate = 1', "optimizer.rows.name: is missing; use sgd"),
        (
            'model = "fm"\n[optimizer.dense]\nname = "Adm"',
            "optimizer.dense: torch.optim has no 'Adm' that fits; it has ASGD",
        ),
        ('model = "fm"\n[optimizer.dense]\nname = "LBFGS"', "torch.optim has no 'LBFGS' that fits"),
        (
            'model = "fm"\n[optimizer.dense]\nlr = -1.0',
            "optimizer.dense: torch.optim.Adam: Invalid learning rate: -1.0",
        ),
        ('model = "fm"\n[optimizer.dense]\nname = "AdamW"\nrate = 1', "unexpected keyword argument 'rate'"),
        ("seed = 3", "model: is missing"),
        ('model = "fm"\n[data]\nsamples = 9', "data.samples: Input should be greater than or equal to 10"),
        ('model = "fm"\ntraining = 3', "training must be a table"),
        ("model = ", "not TOML"),
    ],
)
def test_a_wrong_settings_file_names_the_key(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(FileError) as caught:
        load_settings(file, {"training.batch": 8})
    assert problem in str(caught.value).replace(":training: must", ": training must") or problem in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["--batch", "0"], 2, "above 0"),
        (["--nonsense"], 2, "unrecognized arguments"),
        (["--strategy", "magic"], 2, "unknown strategy 'magic'; the trainer runs des_all_reduce"),
        (["--device", "tpu"], 2, "choose auto, cpu or cuda"),
        (["--model", "nope"], 1, "no such model file"),
        (["--data", "/no/such/file"], 1, "no such file"),
        (["--config", "/no/such.toml"], 1, "cannot be read"),
        (["--data", "synthetic", "--model", "TINY", "--batch", "1000000"], 2, "more than all 80000 training samples"),
        (["--data", "synthetic", "--model", "TINY", "--steps", "5", "--trace", "t"], 2, "--trace needs 50 steps"),
        (["--model", "deepfm", "--data", "ml-100k"], 2, "try --model deepfm_ml100k"),
    ],
)
def test_train_mistakes(
    arguments: list[str], code: int, problem: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tiny) if a == "TINY" else a for a in arguments]
    assert run("des_ref.train", lambda: train.main(arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert problem in captured.err and captured.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--ranks", "0"], ["--ranks", "two"], ["--strategy", "x"], ["--placement", "x"]])
def test_certify_mistakes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("des_ref.certify", lambda: certify.main(arguments)) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_bench_refuses_unknown_ops_and_bare_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("des_ref.bench", lambda: bench.main(["--ops", "gossip"])) == 2
    assert run("des_ref.bench", lambda: bench.main(["--sizes", "4096"])) == 2
    assert "has no unit" in capsys.readouterr().err


def test_interrupt_is_130() -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert run("des_ref.train", interrupted) == 130
