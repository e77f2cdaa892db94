"""Checkpoints: a resumed run equals an uninterrupted one, and a damaged checkpoint is never used."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

from des_ref import train
from des_ref.checkpoint import folder as checkpoints
from des_ref.checkpoint import writer as writing
from des_ref.checkpoint.resume import restore_run
from des_ref.checkpoint.writer import Writer
from des_ref.cli import run
from des_ref.comm import Comm, open_comm
from des_ref.data.batch import Source
from des_ref.data.synthetic import Zipf
from des_ref.embedding.lifetime import Lifetime
from des_ref.embedding.optim import ROW_OPTIMIZERS
from des_ref.models.build import Network
from des_ref.models.dense_optim import DenseOptimizer
from des_ref.pipeline import Pipeline, endless
from des_ref.progress import Progress
from des_ref.strategies import STRATEGIES, build
from des_ref.strategies.base import Optimizers, Strategy
from dessim.errors import DessimError, FileError, UsageError
from dessim.workload.model import load_model
from tests.bench.kills import Case, compare, difference, kill_often, leftovers, parameters
from tests.des_ref.conftest import TINY
from tests.des_ref.ranks import on_ranks
from tests.test_locks import holder

STEPS = 6
SAVED_AT = 4  # an epoch has 5 steps, so the data resume in the middle of an epoch, and end in the next one
UNLIMITED = Lifetime()
SHORT = Lifetime(2, 2)
CASES = [(strategy, "hash", "rowwise_adagrad", "Adam", UNLIMITED) for strategy in STRATEGIES if strategy != "ps_async"]
CASES += [
    ("des_all_reduce", "field", "adam", "AdamW", UNLIMITED),
    ("des_reduce_scatter", "field", "ftrl", "NAdam", UNLIMITED),
]
OPTIONED = ("row_all_to_all+hot_rows=20", "ps_sync+hot_rows=20+look_ahead", "row_all_gather+cache_rows=150")
CASES += [(variant, "hash", "adam", "Adam", UNLIMITED) for variant in OPTIONED]
CASES += [("ps_sync+hot_rows=20", "hash", "adagrad", "Adam", SHORT)]
CASES += [("des_all_reduce", "hash", "adagrad", "Adam", SHORT), ("data_parallel", "hash", "adagrad", "Adam", SHORT)]
DENSE = ("SGD", "Adagrad", "RMSprop", "NAdam", "RAdam", "ASGD", "Rprop", "Adamax", "Adadelta", "Adafactor")


# -- a restored run is the same run -------------------------------------------------------------------------------


def fresh(tiny: Path, comm: Comm, strategy: str, placement: str, rows: str, dense: str, life: Lifetime) -> Strategy:
    model = load_model(tiny)
    model = model.model_copy(update={"embedding": model.embedding.model_copy(update={"placement": placement})})
    network = Network(model.trained_by(rows), 1, torch.float64, comm.device)
    optimizers = Optimizers(ROW_OPTIMIZERS[rows](), DenseOptimizer(dense, {"lr": 0.01}), 0.1, life)
    trainer = build(strategy, network, optimizers, comm)
    trainer.count(lambda: _source().batches(0, 64, 0, 1))
    return trainer


@cache
def _source() -> Source:
    return Zipf(4, 1.5, 200, 1.05, 3).open(400)


def train_to_the_end(strategy: Strategy, comm: Comm, progress: Progress, folder: Path) -> None:
    """Train to the end, with a checkpoint at SAVED_AT and one at the end."""
    share = strategy.share if strategy.looks_ahead else None
    pipeline = Pipeline(strategy, comm, endless(_source(), 64, comm, progress.steps, share), None)
    writer = Writer(comm, folder, 1, 9, {"a run": 1})
    while progress.steps < STEPS:
        pipeline.step()
        progress.steps += 1
        if progress.steps in (SAVED_AT, STEPS):
            writer.save(strategy, progress)
    writer.finish()
    writer.close()


def resume_and_train(checkpoint: Path, comm: Comm, folder: Path, new: Callable[[], Strategy]) -> None:
    strategy = new()
    progress = restore_run(strategy, checkpoint, {"a run": 1}, comm)
    assert progress.steps == SAVED_AT
    train_to_the_end(strategy, comm, progress, folder)


def _all_of(cases: Sequence[tuple[Any, ...]], tiny: Path, work: Path, comm: Comm) -> list[str]:
    texts = [("", "né, 中"), ("", ""), ("a" * 300, "b")]
    assert all(comm.gather_text("texts", pair[comm.rank]) == list(pair) for pair in texts)
    names = [f"{n}-{case[0]}" for n, case in enumerate(cases)]
    for name, case in zip(names, cases, strict=True):
        new = partial(fresh, tiny, comm, *case)
        folder = work / name
        train_to_the_end(new(), comm, Progress(), folder)
        resume_and_train(checkpoints.newest_first(folder)[1], comm, work / f"{folder.name}-again", new)
    return names


@pytest.mark.parametrize("part", range(2))
def test_every_strategy_resumes_bit_identically_on_the_same_ranks_and_within_rounding_on_one(
    part: int, tiny: Path, tmp_path: Path
) -> None:
    cases = CASES[part::2]
    work, rendezvous = tmp_path / "runs", tmp_path / "rendezvous"
    rendezvous.mkdir()
    names, _ = on_ranks(2, rendezvous, partial(_all_of, cases, tiny, work))
    with open_comm("cpu") as comm:
        for case, name in zip(cases, names, strict=True):
            unbroken = parameters(work / name)
            assert len(unbroken["rows/keys"]) > 50 and ("candidates/keys" in unbroken) == (case[-1] == SHORT)
            assert difference(parameters(work / f"{name}-again"), unbroken) == 0, name
            first = checkpoints.newest_first(work / name)[1]
            resume_and_train(first, comm, work / f"{name}-alone", partial(fresh, tiny, comm, *case))
            assert difference(parameters(work / f"{name}-alone"), unbroken) < 1e-12, name


@pytest.mark.parametrize("dense", DENSE)
def test_every_dense_optimizer_resumes_bit_identically(dense: str, tiny: Path, tmp_path: Path) -> None:
    with open_comm("cpu") as comm:
        new = partial(fresh, tiny, comm, "des_all_reduce", "hash", "sgd", dense, UNLIMITED)
        train_to_the_end(new(), comm, Progress(), tmp_path / "a")
        resume_and_train(checkpoints.newest_first(tmp_path / "a")[1], comm, tmp_path / "b", new)
    assert difference(parameters(tmp_path / "a"), parameters(tmp_path / "b")) == 0


@pytest.mark.slow
def test_a_run_killed_three_times_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    case = Case(tmp_path, "des_reduce_scatter", 60, 4, silence=6.0)
    case.finish("undisturbed", 2)
    done = kill_often(case, "killed", 2, 3, random.Random(1))
    assert done.total() == 3 and compare(case, "killed", "undisturbed") == (0, [])
    assert difference(parameters(tmp_path / "killed"), parameters(tmp_path / "undisturbed")) == 0


# -- the command line --------------------------------------------------------------------------------------------


def settings_file(folder: Path, model: Path) -> Path:
    config = folder / "run.toml"
    lines = 'dtype = "float64"\n[data]\nsource = "synthetic"\nsamples = 1000\n[checkpoint]\nevery = 5\nkeep = 3\n'
    config.write_text(f'model = "{model}"\n{lines}[training]\nbatch = 64\npatience = 9\n')
    return config


def train_alone(config: Path, folder: Path, *arguments: str) -> int:
    """Train with checkpoints in `folder`; the exit code."""
    given = ["--config", str(config), "--device", "cpu", "--checkpoint", str(folder), "--json"]
    return run("des_ref.train", lambda: train.main([*given, *arguments]))


@pytest.fixture
def go(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., dict[str, Any]]]:
    """Train alone, with a checkpoint every 5 steps in tmp_path/kept. Returns the JSON object; `said` is stderr."""
    config = settings_file(tmp_path, tiny)

    def trained(*arguments: str, folder: str = "kept", code: int = 0) -> dict[str, Any]:
        assert train_alone(config, tmp_path / folder, *arguments) == code
        captured = capsys.readouterr()
        return (json.loads(captured.out) if captured.out else {}) | {"said": captured.err}

    yield trained


def test_a_run_in_pieces_equals_a_run_in_one(go: Any, tmp_path: Path) -> None:
    """An epoch has 12 steps: the pieces end within an epoch, at its end, and within the next one."""
    log, whole_log = tmp_path / "pieces.jsonl", tmp_path / "whole.jsonl"
    whole = go("--steps", "31", "--epoch-log", str(whole_log), folder="whole")
    for steps, before in ((8, None), (24, 8), (29, 24), (31, 29)):
        part = go("--steps", str(steps), "--resume", "--epoch-log", str(log))
        assert part["resumed_from_step"] == before and part["steps"] == steps
    assert difference(parameters(tmp_path / "kept"), parameters(tmp_path / "whole")) == 0
    assert log.read_text() == whole_log.read_text()
    for key in ("auc", "logloss", "best_epoch", "epochs", "samples_trained"):
        assert part[key] == whole[key]
    names = [path.name for path in checkpoints.newest_first(tmp_path / "whole")]
    assert names == ["step-0000000031", "step-0000000030", "step-0000000025"]
    assert whole["checkpoints"]["count"] == 7 and whole["checkpoints"]["stall_s"]["max"] < 60
    assert leftovers(tmp_path / "kept") == leftovers(tmp_path / "whole") == []
    assert go("--steps", "31", "--resume")["auc"] == whole["auc"]  # the run has finished already


def test_a_process_that_torchrun_restarted_resumes(go: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    go("--steps", "5")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert go("--steps", "7")["resumed_from_step"] == 5


def test_a_folder_that_another_run_writes_is_refused_and_left_alone(go: Any, tmp_path: Path) -> None:
    writing = tmp_path / "kept" / ".writing-step-0000000005"
    writing.mkdir(parents=True)
    held = holder(tmp_path / "kept" / checkpoints.LOCK)
    try:
        said = go("--steps", "5", code=2)["said"]
        assert f"kept: process {held.pid} on" in said and said.count("\n") == 1 and writing.is_dir()
    finally:
        held.kill()
        held.communicate()
    go("--steps", "5")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["step-0000000005"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--epoch-log", "a.json", "--out", "./a.json"), "--epoch-log also writes a.json"),
        (("--checkpoint", ""), "--checkpoint: must not be empty"),
        (("--out", ""), "-o/--out: must not be empty"),
        (("--trace", ""), "not a name for a trace"),
    ],
)
def test_wrong_names_of_outputs_are_refused_before_the_run(
    arguments: tuple[str, ...], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=problem):
        train.main([*arguments, "--device", "cpu"])
    assert not [*tmp_path.iterdir()]


def damage_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit": (lambda p: damage_a_bit(p / "rows-00000-of-00001.safetensors"), "its SHA-256 does not match"),
    "a bit of the dense part": (
        lambda p: damage_a_bit(next((p / "dense").glob("*.safetensors"))),
        "its SHA-256 does not",
    ),
    "its end": (lambda p: os.truncate(p / "rows-00000-of-00001.safetensors", 99), "has 99 bytes where"),
    "a file": (lambda p: (p / "rows-00000-of-00001.safetensors").unlink(), "cannot be read: No such file"),
    "the manifest": (lambda p: (p / "manifest.json").unlink(), "not a checkpoint, or not a whole one"),
    "half the manifest": (lambda p: os.truncate(p / "manifest.json", 99), "manifest.json: is damaged"),
    "a digit": (
        lambda p: (p / "manifest.json").write_text(
            (p / "manifest.json").read_text().replace('"steps": 10', '"steps": 11')
        ),
        "manifest.json: is damaged: its content",
    ),
    "its version": (lambda p: (p / "manifest.json").write_text('{"schema_version": 9}'), "schema_version: must be 1"),
}


@cache
def undamaged(new_folder: Callable[[str], Path]) -> Path:
    """A folder with the checkpoints of a run of 10 steps, `kept`, and of one of 12 steps, `whole`; trained once."""
    folder = new_folder("undamaged")
    model = folder / "tiny.toml"
    model.write_text(TINY)
    config = settings_file(folder, model)
    assert train_alone(config, folder / "kept", "--steps", "10") == 0
    assert train_alone(config, folder / "whole", "--steps", "12") == 0
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_used(
    damage: str,
    go: Any,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained = undamaged(tmp_path_factory.mktemp)
    capsys.readouterr()
    shutil.copytree(trained / "kept", tmp_path / "kept")
    newest, before = checkpoints.newest_first(tmp_path / "kept")
    do, problem = DAMAGES[damage]
    do(newest)
    (tmp_path / "kept" / ".writing-step-0000000011").mkdir()
    named = go("--steps", "12", "--resume", str(newest), folder="other", code=1)["said"]
    assert problem in named and str(newest) in named and named.count("\n") == 1
    resumed = go("--steps", "12", "--resume")
    assert resumed["resumed_from_step"] == 5
    assert f"{newest.name} is refused: {newest}" in resumed["said"] and problem in resumed["said"]
    assert f"resuming from {before}" in resumed["said"]
    assert leftovers(tmp_path / "kept") == []
    assert difference(parameters(tmp_path / "kept"), parameters(trained / "whole")) == 0


def test_a_checkpoint_that_is_whole_and_wrong_is_refused_in_one_line(go: Any, tmp_path: Path) -> None:
    """Someone has changed it, and computed its digests anew."""
    go("--steps", "5")
    (newest,) = checkpoints.newest_first(tmp_path / "kept")
    original = json.loads((newest / checkpoints.MANIFEST).read_text())
    del original["sha256"]
    rows = newest / "rows-00000-of-00001.safetensors"

    def refused(problem: str, **changes: Any) -> None:
        content = original | changes
        text = json.dumps(content | {"sha256": checkpoints._digest(content)})
        (newest / checkpoints.MANIFEST).write_text(text)
        said = go("--steps", "7", "--resume", str(newest), folder="other", code=1)["said"].splitlines()
        assert problem in said[-1] and len(said) <= 2, said  # "resuming from" comes first

    refused("is not a manifest of des_ref.train", files=[1])
    refused("is not a manifest of des_ref.train", files={"../../etc/passwd": {"bytes": 1, "sha256": ""}})
    refused("is not a manifest of des_ref.train", progress=None)
    refused("do not hold the state of such a run: ", progress={"steps": "many"})
    rows.write_bytes(b"\xff" * 64)
    listed = {rows.name: {"bytes": 64, "sha256": checkpoints.Written.of(newest, rows.name).sha256}}
    refused("do not hold the state of such a run: ", files=original["files"] | listed)


def test_a_run_does_not_start_if_no_checkpoint_is_whole(go: Any, tmp_path: Path) -> None:
    go("--steps", "10")
    for checkpoint in checkpoints.newest_first(tmp_path / "kept"):
        damage_a_bit(checkpoint / "rows-00000-of-00001.safetensors")
    said = go("--resume", code=1)["said"]
    assert "none of its 2 checkpoints is whole" in said and said.count("is refused") == 2


def test_mistakes_are_one_line_each(go: Any, tmp_path: Path, tiny: Path) -> None:
    go("--steps", "5")
    for arguments, code, problem in (
        (
            ("--steps", "9"),
            2,
            "the last one step-0000000005: resume from it with --resume, or name",
        ),
        (("--resume", str(tmp_path / "no")), 1, "no such folder; --resume takes a checkpoint"),
        (("--resume", str(tmp_path)), 1, "manifest.json: cannot be read"),
        (("--resume", "--seed", "5"), 1, "was saved with seed = 0, but this run has 5: resume with the settings"),
        (("--resume", "--optimizer", "ftrl"), 1, "was saved with optimizer.rows.name = 'rowwise_adagrad', but this"),
        (("--resume", "--batch", "32"), 1, "was saved with training.batch = 64, but this run has 32"),
        (("--resume", "--strategy", "row_wise"), 1, "strategy = 'des_all_reduce', but this run has 'row_wise'"),
        (("--strategy", "ps_async"), 2, "ps_async keeps no checkpoints, because rows are on its servers: use ps_sync"),
        (("--trace", str(tmp_path / "t")), 2, "trace a run without"),
        (("--checkpoint-every", "0"), 2, "above 0"),
        (("--checkpoint", str(tiny / "below")), 1, "cannot be used: Not a directory"),
    ):
        said = go(*arguments, code=code)["said"]
        lines = [line for line in said.splitlines() if not line.startswith("resuming from")]
        assert problem in said and len(lines) == 1, said
    with pytest.raises(DessimError, match="give their folder with --checkpoint"):
        train.main(["--data", "synthetic", "--model", str(tiny), "--resume", "--device", "cpu"])


# -- disks -------------------------------------------------------------------------------------------------------


def test_a_full_disk_costs_only_the_checkpoint_being_written(
    go: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, full = writing.write_rows, {"step-0000000010", "step-0000000020"}

    def write_rows(path: Path, groups: Any) -> None:
        write(path, groups)
        if path.parent.name.removeprefix(".writing-") in full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing, "write_rows", write_rows)
    result = go("--steps", "18")
    line = "checkpoint of step 10 was not written (No space left on device); last good one: step-0000000005"
    assert result["steps"] == 18 and f"{line}; training continues" in result["said"]
    steps = [path.name[-2:] for path in checkpoints.newest_first(tmp_path / "kept")]
    assert steps == ["18", "15", "05"] and leftovers(tmp_path / "kept") == []
    # A run that ends without its last checkpoint has failed.
    said = go("--steps", "20", "--resume", code=1)["said"]
    assert "the last checkpoint was not written: No space left on device" in said
    assert checkpoints.check(tmp_path / "kept" / "step-0000000018")["step"] == 18


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_with_a_disk_that_is_really_full(go: Any, small_disk: Path) -> None:
    go("--steps", "5", folder="disk/kept")
    (small_disk / "ballast").write_bytes(
        bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize - 8192)
    )
    said = go("--steps", "12", "--resume", folder="disk/kept", code=1)["said"]
    assert "checkpoint of step 10 was not written (No space left on device); last good one: step-0000000005" in said
    assert "error: the last checkpoint was not written: No space left on device" in said
    assert leftovers(small_disk / "kept") == [] and len(checkpoints.newest_first(small_disk / "kept")) == 1
    (small_disk / "ballast").unlink()
    assert go("--steps", "12", "--resume", folder="disk/kept")["resumed_from_step"] == 5


def test_a_file_that_another_rank_wrote_elsewhere_is_reported_missing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        checkpoints.commit(tmp_path, 1, {}, [checkpoints.Written("rows-00001-of-00002.safetensors", 3, "")], 3)
    assert checkpoints.newest_first(tmp_path) == []
    with pytest.raises(FileError, match="not a whole one"):
        checkpoints.check(checkpoints.temporary(tmp_path, 1))
