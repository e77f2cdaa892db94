"""Settings and exit codes: a mistake is one line that names the key, with the right exit code."""

from __future__ import annotations

import errno
import json
import runpy
from pathlib import Path

import pytest

from des_ref import bench, config, steps, train
from des_ref.certify import program as certify
from des_ref.cli import run
from des_ref.config import DenseSettings, OptimizerSettings, load_settings
from des_ref.models.dense_optim import DenseOptimizer
from des_ref.step_jobs import load_jobs
from des_ref.tracing.session import TraceSession
from des_ref.train_flags import parser, settings_from
from dessim.errors import FileError, UsageError
from dessim.trace.io import LOCK_FILE, part_folder
from tests.des_ref.planned import equal_model


def test_shipped_settings_load_and_options_override_them() -> None:
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
            "optimizer.dense: torch.optim has no 'Adm' that the trainer supports; use one of ASGD",
        ),
        ('model = "fm"\n[optimizer.dense]\nname = "LBFGS"', "torch.optim has no 'LBFGS' that the trainer supports"),
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


def test_a_trace_never_replaces_another_file_or_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").write_text("all of it")
    for existing in (tmp_path / "papers", tmp_path / "papers" / "thesis.txt"):
        assert (
            run(
                "des_ref.train", lambda existing=existing: train.main(["--data", "synthetic", "--trace", str(existing)])
            )
            == 2
        )
        assert "exists and is not a trace; name another folder" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["papers", "thesis.txt"]


def test_only_rank_0_judges_the_lock_of_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another host, the lock that rank 0 has just taken looks like that of another run."""
    trace = tmp_path / "run.trace"
    part_folder(trace).mkdir()
    (part_folder(trace) / LOCK_FILE).write_text('{"pid": 1, "host": "elsewhere"}')
    jobs = tmp_path / "jobs.json"
    jobs.write_text(json.dumps({"jobs": [{"model": "fm", "strategy": "mesh", "trace": str(trace)}]}))
    arguments = parser("").parse_args(["--data", "synthetic", "--trace", str(trace)])
    monkeypatch.setenv("RANK", "1")
    assert settings_from(arguments).data.source == "synthetic" and len(load_jobs(jobs)) == 1
    monkeypatch.setenv("RANK", "0")
    for read in (lambda: settings_from(arguments), lambda: load_jobs(jobs)):
        with pytest.raises(UsageError, match="process 1 on elsewhere is writing it"):
            read()


@pytest.mark.parametrize("program", ["train", "steps"])
def test_a_run_that_is_interrupted_gives_up_the_lock_of_its_trace(
    program: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a process of another host has ended cannot be seen, so its lock would refuse the next run there."""

    def interrupted(self: TraceSession) -> None:
        assert (part / LOCK_FILE).exists()
        raise KeyboardInterrupt

    trace, jobs = tmp_path / "run.trace", tmp_path / "jobs.json"
    part = part_folder(trace)
    jobs.write_text(json.dumps({"jobs": [{"model": str(tiny), "strategy": "mesh", "trace": str(trace)}]}))
    monkeypatch.setattr(TraceSession, "step", interrupted)
    options = ["--data", "synthetic", "--model", str(tiny), "--trace", str(trace), "--device", "cpu"]
    assert run("p", lambda: train.main(options) if program == "train" else steps.main([str(jobs)])) == 130
    assert part.is_dir() and not (part / LOCK_FILE).exists()


def _compared(*options: str) -> dict[str, object]:
    args = parser("").parse_args(options)
    settings = settings_from(args)
    return train._shared(args, settings, settings.load_model())


def test_ranks_must_share_the_kind_of_data_and_the_laws_of_ids_but_no_paths(tmp_path: Path) -> None:
    assert _compared("--data", "ml-100k") != _compared("--data", "synthetic") != _compared("--data", "clicks.tsv")
    assert _compared("--data", "/a/clicks.tsv") == _compared("--data", "/b/day.gz")
    laws = '[[tables]]\nname = "t0"\nrows = 2000\nskew = {}\n'
    for name, skew in (("a", 0.3), ("b", 0.3), ("c", 0.4)):
        (tmp_path / name).write_text(laws.format(skew))
    a, b, c = (_compared("--model", equal_model(tmp_path), "--ids", str(tmp_path / name)) for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    "arguments",
    [
        ["--ranks", "0"],
        ["--ranks", "two"],
        ["--ranks", "2,999"],
        ["--strategy", "x"],
        ["--placement", "x"],
        ["--device", "tpu"],
        ["--strategy", "ps_async", "--staleness", "-1"],
        ["--html", "/proc/none/page.html"],
        ["--html", "/"],
    ],
)
def test_certify_mistakes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("des_ref.certify", lambda: certify.main(arguments)) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.out == ""


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["--ops", "gossip"], 2, "unknown op 'gossip'"),
        (["--sizes", "4096"], 2, "has no unit"),
        (["--cases", "/no/such.json"], 1, "cannot be read"),
        (["--json", "/proc/none/out.json"], 2, "No such file or directory"),
        (["--json", "/"], 2, "is a folder"),
    ],
)
def test_bench_mistakes(arguments: list[str], code: int, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("des_ref.bench", lambda: bench.main(arguments)) == code
    said = capsys.readouterr()
    assert said.out == "" and problem in said.err and said.err.count("\n") == 1


def test_too_little_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("des_ref.bench", lambda: bench.main(["--ops", "all_reduce", "--sizes", "8192TiB"])) == 1
    said = capsys.readouterr().err
    assert "des_ref.bench: error: out of memory: can't allocate memory" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.json"), "a.json: No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (MemoryError("Unable to allocate 3 GiB for an array"), "out of memory: Unable to allocate 3 GiB for an array"),
        (RuntimeError("CUDA out of memory. Tried to allocate 3 GiB\nmore"), "out of memory: CUDA out of memory. Tried"),
    ],
)
def test_what_the_system_refuses_is_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def refused() -> int:
        raise error

    assert run("des_ref.train", refused) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"des_ref.train: error: {line}") and said.count("\n") == 1


def test_a_bug_in_the_program_is_not_hidden() -> None:
    def broken() -> int:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        run("des_ref.train", broken)


@pytest.mark.parametrize(("rank", "said"), [("0", "des_ref.train: interrupted\n"), ("1", "")])
def test_an_interrupt_exits_with_130_and_is_reported_once(
    rank: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)

    def interrupted() -> int:
        raise KeyboardInterrupt

    assert run("des_ref.train", interrupted) == 130
    assert capsys.readouterr().err == said


def test_importing_the_settings_makes_no_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's first optimizer imports the compiler, which takes every program that only imports the trainer seconds."""
    monkeypatch.setattr(DenseOptimizer, "__call__", None)
    settings = runpy.run_path(str(config.__file__), run_name="config")["OptimizerSettings"]()
    assert settings.dense.build() == DenseOptimizer("Adam", {"lr": 1e-3})
    monkeypatch.undo()
    assert OptimizerSettings().dense == DenseSettings(lr=1e-3)
