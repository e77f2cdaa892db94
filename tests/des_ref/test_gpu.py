"""`python -m des_ref.gpu` on the CPU: every check runs and passes, and one that fails, dies or hangs hides no other."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from des_ref.comm import Comm
from des_ref.gpu import program
from des_ref.gpu.checks import Check
from des_ref.gpu.machine import CheckTimedOut, Figures, Machine, Skipped, require
from des_ref.gpu.processes import on_ranks
from dessim.errors import CheckFailed, UsageError
from tests.forked import run_forked


def run(out: Path, *arguments: str) -> dict[str, Any]:
    """The JSON object of a run on the CPU, all of whose checks pass."""
    assert program.main(["--device", "cpu", "--small", "--out", str(out), *arguments]) == 0
    found: dict[str, Any] = json.loads((out / "gpu.json").read_text())
    assert found["complete"] and found["ok"]
    assert all(row["state"] == "passed" and row["figures"] for row in found["checks"]), found["checks"]
    return found


def test_checks_on_one_device(tmp_path: Path) -> None:
    names = "tables,codecs,optimizers,sums,waits,profile"
    found = run(tmp_path, "--only", names)
    assert [row["name"] for row in found["checks"]] == names.split(",")
    by_name = {row["name"]: row["figures"] for row in found["checks"]}
    assert max(by_name["waits"].values()) <= 5
    assert "[gpu.kernels]" in (tmp_path / "device.toml").read_text()


def test_training_checks_on_one_device(tmp_path: Path) -> None:
    run(tmp_path, "--only", "pipeline,checkpoint,certificate", "--ranks", "1")


def test_checks_on_two_ranks(tmp_path: Path) -> None:
    found = run(tmp_path, "--only", "replicas,ps_async,kill", "--ranks", "2")
    assert [row["name"] for row in found["checks"]] == ["replicas, 2", "ps_async, 2", "kill and resume, 2"]


@pytest.mark.slow  # three commands of dessim
def test_memory_and_steps_are_measured_and_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", run_forked)
    memory, steps = (row["figures"] for row in run(tmp_path, "--only", "memory,steps", "--ranks", "1")["checks"])
    assert 0 < memory["peak_bytes"] < 2 * memory["formula_bytes"]
    assert steps["measured_s"] > 0 and steps["projected_s"] > 0


def _fails(machine: Machine, limit_s: float) -> Figures:
    raise CheckFailed("as it should")


def _skips(machine: Machine, limit_s: float) -> Figures:
    raise Skipped("no such part")


def _has_a_bug(machine: Machine, limit_s: float) -> Figures:
    return {"never": 1 / 0}


def _is_late(machine: Machine, limit_s: float) -> Figures:
    raise CheckTimedOut("not done")


def _passes(machine: Machine, limit_s: float) -> Figures:
    return {"figure": 1.5}


def test_no_check_hides_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    made = [Check(run.__name__.strip("_"), run) for run in (_fails, _skips, _has_a_bug, _passes)]
    monkeypatch.setattr(program, "checks", lambda ranks: iter(made))
    with pytest.raises(CheckFailed, match="failed: fails, has_a_bug") as caught:
        program.main(["--device", "cpu", "--out", str(tmp_path)])
    assert caught.value.exit_code == 3
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["failed", "skipped", "failed", "passed"]
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["complete"] and not found["ok"]
    assert [row["reason"] for row in found["checks"]] == [
        "as it should",
        "no such part",
        "ZeroDivisionError: division by zero",
        "",
    ]


def test_what_the_time_budget_leaves_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(program, "checks", lambda ranks: iter([Check("slow", _is_late)]))
    for budget, state in (("0s", "skipped"), ("9s", "skipped"), ("10min", "failed")):
        code = 0
        try:
            code = program.main(["--device", "cpu", "--out", str(tmp_path), "--time-budget", budget])
        except CheckFailed as failed:
            code = failed.exit_code
        assert code == (3 if state == "failed" else 0)
        assert f"slow                 {state}" in capsys.readouterr().out


def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert program.main(["--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--only", "nonsense"], ["--ranks", "0"], ["--ranks", "one"]])
def test_wrong_options_are_refused(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        program.main(["--device", "cpu", "--out", str(tmp_path), *arguments])


def _rank_1_fails(comm: Comm, machine: Machine) -> Figures:
    require(comm.rank == 0, "rank 1 has another value")
    comm.barrier()
    return {}


def _rank_1_dies(comm: Comm, machine: Machine) -> Figures:
    if comm.rank:
        os._exit(7)
    time.sleep(60)
    return {}


def _hangs(comm: Comm, machine: Machine) -> Figures:
    time.sleep(60)
    return {}


@pytest.mark.parametrize(
    ("work", "limit_s", "problem"),
    [
        (_rank_1_fails, 60.0, "rank 1: rank 1 has another value"),
        (_rank_1_dies, 60.0, "exit code 7"),
        (_hangs, 2.0, "not done after 2 s"),
    ],
)
def test_the_cause_of_a_failure_is_named(work: Any, limit_s: float, problem: str, tmp_path: Path) -> None:
    started_at = time.monotonic()
    with pytest.raises(CheckFailed, match=problem):
        on_ranks(Machine("cpu", tmp_path, "", small=True), work, 2, limit_s)
    assert time.monotonic() - started_at < 40
