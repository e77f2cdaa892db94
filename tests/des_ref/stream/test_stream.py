"""A run on a stream from its command line: what it learns and reports, how it ends, and how it resumes."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from des_ref import train
from des_ref.checkpoint import folder as checkpoints
from des_ref.cli import run
from des_ref.comm import open_comm
from des_ref.config import load_settings
from des_ref.stream.drift import Drift
from des_ref.stream.stop import asked_to_stop
from dessim.processes import leave
from dessim.workload.model import load_model
from tests.bench.kills import difference, leftovers, parameters
from tests.des_ref.ranks import stderr_to
from tests.des_ref.stream.rows import text
from tests.forked import forked_from_everything, run_forked

LIMIT_S = 60.0
FM = """
schema_version = 1
name = "fm2"
[input]
fields = {fields}
ids_per_sample = {fields}
vocabulary = 400
[embedding]
width = 2
[[operators]]
kind = "lr"
[[operators]]
kind = "fm"
"""
SETTINGS = """
model = "{model}"
dtype = "float64"
[data]
source = "stream"
[stream]
id_life = 3000
report_every = 4
[training]
batch = 64
[rows]
admit_after = 2
expire_after = 30
[checkpoint]
every = 5
"""
SAME = ("rows", "auc", "auc_error", "logloss", "total_auc", "total_logloss", "table_rows", "candidates", "position")


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    def written(fields: int = 4, extra: str = "") -> Path:
        (tmp_path / "fm.toml").write_text(FM.format(fields=fields) + extra)
        file = tmp_path / "run.toml"
        file.write_text(SETTINGS.format(model=tmp_path / "fm.toml"))
        return file

    return written


def go(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert run("des_ref.train", lambda: train.main([*arguments, "--device", "cpu", "--json"])) == code
    captured = capsys.readouterr()
    return (json.loads(captured.out) if captured.out else {}) | {"said": captured.err}


def reports(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_rows_are_scored_before_they_are_trained_on(
    config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compared with a loop that predicts each batch with the same network before its step."""
    file, log = config(), tmp_path / "log.jsonl"
    result = go(capsys, "--config", str(file), "--steps", "8", "--report-log", str(log))
    settings = load_settings(file, {})
    with open_comm("cpu") as comm:
        model = load_model(settings.model).trained_by("rowwise_adagrad")
        strategy, drift = train.build_strategy(settings, model, comm), Drift.of(model, 0, 3000)
        logits, labels = [], []
        for step in range(8):
            batch = drift.batch(64 * step, 64)
            logits.append(strategy.predict(batch))
            labels.append(batch.labels)
            strategy.step(batch)
        auc, loss = strategy.network.objective.score(torch.cat(logits), torch.cat(labels))
    assert result["logloss"] == pytest.approx(loss, abs=1e-7)
    assert abs(result["auc"] - (auc or 0)) <= result["auc_error"] + 1e-12
    assert [line["step"] for line in reports(log)] == [4, 8]
    assert result["table_rows"] == len(strategy.table) == reports(log)[-1]["table_rows"]
    assert reports(log)[-1]["total_auc"] == result["auc"] and result["ended_by"] == "steps"


def test_scores_are_without_dropout(config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without dropout, untrained rows give almost equal logits, so the first batch's log loss is ln 2."""
    file = config(extra='[[operators]]\nkind = "mlp"\nwidths = [32]\ndropout = 0.9\n')
    text = file.read_text().replace("[rows]", "[rows]\ninit_std = 0.0")
    file.write_text(text)
    assert go(capsys, "--config", str(file), "--steps", "1")["logloss"] == pytest.approx(0.693147, abs=1e-6)


def test_ids_that_no_longer_occur_leave_the_table_so_that_it_stops_growing(
    config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.jsonl"
    go(capsys, "--config", str(config()), "--steps", "180", "--report-log", str(log))
    rows = [line["table_rows"] for line in reports(log)]
    # 1,900 ids have occurred. At most 400 live at a time, and an id may keep its row for 1.5 * 30 steps after its life.
    assert max(rows[-20:]) < 1.2 * min(rows[-20:]) and rows[-1] < 400 * (1 + 45 * 64 / 3000)
    assert len(reports(log)) == 45 and reports(log)[-1]["auc"] > 0.6
    assert all(line["memory_bytes"] > 1 << 20 and line["rows_per_s"] > 0 for line in reports(log))


def test_a_stream_in_pieces_equals_the_stream_in_one(
    config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config(39)
    rows = text(64 * 22 + 9)
    names = [tmp_path / "day_0", tmp_path / "day_1"]
    names[0].write_text("".join(rows[:700]))
    names[1].write_text("".join(rows[700:]))
    inputs = [word for name in names for word in ("--input", str(name))]
    base = ["--config", str(file), *inputs, "--checkpoint"]
    whole_log, log = tmp_path / "whole.jsonl", tmp_path / "log.jsonl"
    whole = go(capsys, *base, str(tmp_path / "whole"), "--report-log", str(whole_log))
    assert (whole["steps"], whole["ended_by"], whole["position"]["name"]) == (22, "end of input", "day_1")
    assert whole["auc"] > 0.65
    for steps in ("6", "13", "30"):
        part = go(capsys, *base, str(tmp_path / "kept"), "--resume", "--steps", steps, "--report-log", str(log))
    assert part["resumed_from_step"] == 13 and part["steps"] == 22
    assert difference(parameters(tmp_path / "kept"), parameters(tmp_path / "whole")) == 0
    assert leftovers(tmp_path / "kept") == []
    for key in ("auc", "auc_error", "logloss", "table_rows", "position"):
        assert part[key] == whole[key], key
    # Each piece ends with an additional report; all other reports have the same figures.
    by_step = {line["step"]: line for line in reports(log)}
    assert by_step.keys() == {4, 6, 8, 12, 13, 16, 20, 22}
    for line in reports(whole_log):
        if line["step"] not in (8, 16):  # the end of a piece has cut these windows in two
            assert {k: line[k] for k in SAME} == {k: by_step[line["step"]][k] for k in SAME}
    more = tmp_path / "day_2"
    more.write_text("".join(text(64 * 3, seed=1)))
    resumed = go(capsys, *base, str(tmp_path / "kept"), "--resume", "--input", str(more))
    assert resumed["steps"] == 25  # the incomplete batch of the last day is completed by the new day


def test_a_growing_file_is_trained_on_as_it_grows(
    config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, rows, log = tmp_path / "clicks", text(64 * 6), tmp_path / "log.jsonl"
    file.write_text("".join(rows[:200]))
    arrived = []

    def written() -> list[dict[str, Any]]:
        return reports(log) if log.exists() else []

    def grow() -> None:
        """Add rows once all whole batches of the file are in use, and let training wait until a report says so."""
        started_at = time.monotonic()
        for at in range(200, len(rows), 31):
            steps = at // 64 - 1  # the next one waits for its successor's batch
            while len(written()) < steps and time.monotonic() < started_at + LIMIT_S:
                time.sleep(0.01)
            arrived.append(len(written()) >= steps)
            if arrived[-1] and not any(line["starved_share"] > 0.5 for line in written()):
                time.sleep(time.monotonic() - started_at)  # longer than all steps so far
            with file.open("a") as more:
                more.write("".join(rows[at : at + 31]))

    thread = threading.Thread(target=grow)
    thread.start()
    arguments = ["--config", str(config(39)), "--input", str(file), "--report-log", str(log), "--report-every", "1"]
    followed = go(capsys, *arguments, "--follow", "--steps", "5")
    thread.join()
    assert all(arrived) and any(line["starved_share"] > 0.5 for line in reports(log))
    whole = go(capsys, *arguments, "--steps", "5")
    assert [followed[key] for key in SAME if key in followed] == [whole[key] for key in SAME if key in whole]


def _torchrun(ranks: int, arguments: list[str], rows: Path, said: Path) -> None:
    """Launch ranks like torchrun --standalone, but forked; they read `rows`, a named pipe, on stdin."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    stderr_to(said)
    here = LaunchConfig(1, 1, ranks, rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="fork")
    elastic_launch(here, _train)(arguments, rows, said)


def _train(arguments: list[str], rows: Path, said: Path) -> None:
    stderr_to(said)
    os.dup2(os.open(rows, os.O_RDONLY), 0)
    torch.set_num_threads(1)
    leave(run("des_ref.train", lambda: train.main(arguments)))


@pytest.mark.slow
def test_two_workers_score_like_one_and_ctrl_c_ends_them_with_a_checkpoint(
    config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows arrive through a pipe that stays open, so only the signal ends the run."""
    file, log, kept = config(39), tmp_path / "log.jsonl", tmp_path / "kept"
    rows = text(64 * 12)
    arguments = ["--config", str(file), "--input", "-", "--report-log", str(log), "--checkpoint", str(kept)]
    arguments += ["--device", "cpu", "--json"]
    pipe, said = tmp_path / "pipe", tmp_path / "said"
    os.mkfifo(pipe)
    launcher = forked_from_everything().Process(target=_torchrun, args=(2, arguments, pipe, said))
    launcher.start()
    try:
        with pipe.open("w") as stdin:
            stdin.write("".join(rows))
            stdin.flush()
            deadline = time.monotonic() + LIMIT_S
            # The step after the third report waits for rows that never arrive.
            while not log.exists() or len(reports(log)) < 2:
                assert time.monotonic() < deadline and launcher.is_alive()
                time.sleep(0.05)
            time.sleep(1.0)
            os.kill(launcher.pid or 0, signal.SIGINT)
            launcher.join(LIMIT_S)
    finally:
        launcher.kill()
    assert "progressive AUC" in said.read_text(), said.read_text()
    last = reports(log)[-1]
    assert last["step"] == 12
    whole = tmp_path / "rows"
    whole.write_text("".join(rows))
    alone = go(capsys, "--config", str(file), "--input", str(whole))
    assert alone["steps"] == 12 and last["total_auc"] == alone["auc"]
    assert last["total_logloss"] == pytest.approx(alone["logloss"], abs=1e-7)
    assert checkpoints.check(checkpoints.newest_first(kept)[0])["step"] == 12
    program = [sys.executable, "-m", "des_ref.train", *arguments, "--resume"]
    resumed = run_forked(program, input="".join(rows[:64]))
    assert "standard input cannot be read again: continuing with the rows that arrive now" in resumed.stderr
    assert json.loads(resumed.stdout)["steps"] == 13


def test_the_first_signal_requests_a_stop_and_the_second_has_its_usual_effect() -> None:
    with asked_to_stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a background job of a shell
    try:
        with asked_to_stop() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN and not stop.wait(0.1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_stopped_run_ends_with_a_report_and_a_checkpoint(
    config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, kept = tmp_path / "log.jsonl", tmp_path / "kept"

    def interrupt() -> None:
        while not log.exists() or not log.read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = go(capsys, "--config", str(config()), "--report-log", str(log), "--checkpoint", str(kept))
    thread.join()
    assert result["ended_by"] == "stopped" and result["steps"] >= 4
    assert (
        reports(log)[-1]["step"]
        == result["steps"]
        == checkpoints.read_manifest(checkpoints.newest_first(kept)[0])["step"]
    )
    resumed = go(capsys, "--config", str(config()), "--checkpoint", str(kept), "--resume", "--steps",
                 str(result["steps"] + 2))  # fmt: skip
    assert resumed["position"] == {"row": 64 * (result["steps"] + 2)}


def test_mistakes_are_one_line_each(config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(config())
    bad = tmp_path / "bad"
    bad.write_text("".join([*text(70), "label\n"]))
    empty = tmp_path / "empty"
    empty.touch()
    for arguments, code, problem in (
        (("--config", file, "--input", str(bad)), 2, "has input.fields = 4, but Criteo's format has 39 fields"),
        (("--config", file, "--epochs", "3"), 2, "--epochs applies to runs with epochs, and a stream has none"),
        (("--config", file, "--trace", "t"), 2, "--trace applies to runs with epochs"),
        (("--data", "stream", "--strategy", "ps_async"), 2, "use ps_sync for a stream"),
        (("--config", file, "--follow"), 1, "stream: follow waits for an input to grow: name it in inputs (--input)"),
        (("--config", file, "--model", "fvae"), 2, "fvae has another objective: choose another --model"),
        (
            ("--data", "synthetic", "--report-every", "5"),
            2,
            "--report-every applies to streams only: add --data stream",
        ),
    ):
        said = go(capsys, *arguments, code=code)["said"]
        assert problem in said and said.count("\n") == 1, said
    many = str(config(39))
    for name, code, problem in (
        (tmp_path / "no", 1, f"{tmp_path / 'no'}: cannot be read: No such file or directory"),
        (bad, 1, f"{bad}:71: 1 columns instead of 40"),
    ):
        said = go(capsys, "--config", many, "--input", str(name), "--checkpoint", str(tmp_path / "k"), code=code)[
            "said"
        ]
        assert problem in said and said.splitlines()[-1].startswith("des_ref.train: error:")
    kept = str(tmp_path / "k")
    result = go(capsys, "--config", many, "--input", str(bad), "--checkpoint", kept, "--max-bad-rows", "1")
    assert result["bad_rows"] == 1 and result["steps"] == 1
    assert (tmp_path / "k" / "bad-rows.tsv").read_text().startswith("71\t1 columns")
    said = go(capsys, "--config", many, "--input", str(empty), code=1)["said"]
    assert "the inputs end before one batch of 64 rows: choose a smaller --batch" in said
