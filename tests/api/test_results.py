"""Results: typed forms of what `--json` prints, the same from Python and from the command line; and wrong arguments."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from typer.testing import CliRunner

import dessim
from dessim.cli.app import app

ARGUMENTS = ["--cluster", "one-switch_16", "--gpus", "2,8", "--what-if", "2x:nic_rate", "--json"]
STRATEGIES = ["des_all_reduce", "ps_sync"]


@pytest.fixture(scope="module")
def projected() -> dessim.ProjectResult:
    return dessim.project("deepfm", "one-switch_16", STRATEGIES, [2, 8], what_if="2x:nic_rate")


def printed(*words: str) -> dict[str, Any]:
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.stderr
    found: dict[str, Any] = json.loads(shown.stdout)
    assert found.pop("schema_version") == 1 and not found.pop("partial")
    return found


def test_python_and_the_command_give_the_same(projected: dessim.ProjectResult) -> None:
    """Defaults too: `ps_sync` has dedicated servers that queue in both."""
    object_of_json = printed("project", "--model", "deepfm", "--strategy", ",".join(STRATEGIES), *ARGUMENTS)
    assert json.loads(json.dumps(projected.to_json())) == object_of_json
    assert dessim.ProjectResult.from_json(object_of_json) == projected
    assert "2 hosts beside the workers'" in projected[1].provenance["servers"]


def test_rows_are_flat_and_frozen(projected: dessim.ProjectResult) -> None:
    assert [(step.gpus, step.strategy) for step in projected] == [(n, name) for n in (2, 8) for name in STRATEGIES]
    step = projected[0]
    assert len(projected) == 4 and not projected.misfits
    assert step.samples_per_s == pytest.approx(step.batch / step.step_time_s)
    assert step.step_time_s == pytest.approx(step.compute_s + step.exposed_comm_s + step.idle_s)
    assert step.step_time_s == pytest.approx(sum(op.time_s for op in step.critical_path))
    assert step.what_if[0].change == "2x:nic_rate" and (step.what_if[0].speedup or 0) >= 1
    assert {op.collective for op in step.ops} >= {"all_reduce"}
    with pytest.raises(FrozenInstanceError):
        step.gpus = 3  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(step)) == step  # noqa: S301


def test_a_frame_has_a_line_a_row_and_misfits_without_times() -> None:
    found = dessim.project("deepfm", "one-switch_16", ["des_all_reduce", "table_wise"], 16, batch_per_worker=2**20)
    frame = found.to_frame()
    assert [row.strategy for row in found.misfits] == ["des_all_reduce"] and len(found) == 1
    assert list(frame["strategy"]) == ["table_wise", "des_all_reduce"]
    assert frame["step_time_s"].isna().tolist() == [False, True]
    assert "does not fit" in frame["does_not_fit"][1] and set(frame["cluster"]) == {"one-switch_16"}


def test_other_studies_give_what_their_commands_print() -> None:
    trace, cluster = "tests/golden/inputs/tiny.trace", "lab/switch_4"
    replayed = dessim.ReplayResult.from_json(printed("replay", trace, "--cluster", cluster, "--json"))
    assert dessim.replay(trace, cluster) == replayed and len(replayed.to_frame()) == 1
    goodput = dessim.goodput(64, mtbf_s=7776000, checkpoint_s=120, restart_s=300, runs=4)
    words = ("goodput", "--nodes", "64", "--mtbf", "90 d", "--checkpoint", "2 min", "--restart", "5 min", "--runs", "4")
    assert goodput == dessim.GoodputResult.from_json(printed(*words, "--json"))
    assert len(goodput.to_frame()) == len(goodput)
    words = ("collective", "all_reduce", "--cluster", "h100-8x_rail_128", "--gpus", "16", "--size", "1MiB", "--json")
    found = dessim.collective("h100-8x_rail_128", "all_reduce", 16, 2**20)
    assert found == dessim.CollectiveResult.from_json(printed(*words)) and len(found.to_frame()) == 1


def test_deprecated_names_warn_and_work(projected: dessim.ProjectResult) -> None:
    with pytest.warns(DeprecationWarning, match=r"dessim\.run_collective is deprecated .*use dessim\.collective"):
        run_collective = dessim.run_collective
    assert callable(run_collective)
    with pytest.warns(DeprecationWarning, match=r"dessim\.simulate"):
        assert callable(dessim.simulate)
    with pytest.warns(DeprecationWarning, match=r"StepRow\.breakdown") as caught:
        assert projected[0].breakdown.step_time_s == projected[0].step_time_s
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="servers=None") as caught:
        ideal = dessim.project("fm", "one-switch_16", "ps_sync", 2, servers=None)
    assert ideal[0].lower_bound and caught[0].filename == __file__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategies": "tabel_wise"}, "tabel_wise"),
        ({"gpus": 0}, "at least 1 GPU"),
        ({"gpus": "8"}, "gpus '8': write numbers, such as"),
        ({"strategies": []}, "name strategies"),
        ({"network": "fast"}, "--network fast: choose from fluid, packet"),
        ({"batch_per_worker": 0}, "--batch-per-worker 0: at least 1"),
        ({"jitter": 4}, "--jitter 4.0: at most 3"),
        ({"server_threads": 0}, "--server-threads 0: at least 1"),
        ({"servers": -1}, "--servers -1"),
        ({"algorithms": {"all_reduced": "ring"}}, "all_reduced=ring: no such collective"),
        ({"what_if": "2x:nic"}, "--what-if"),
        ({"cluster": "h100"}, "no such topology"),
        ({"job": "deepfmm"}, "no such model"),
        ({"job": None}, "a job is a Job, Model or Trace, a shipped name or a file, not of type NoneType"),
        ({"cluster": 5}, "a cluster is a Cluster, a shipped name or a file, not of type int"),
        ({"gpus": 2.5}, "gpus 2.5: write numbers"),
        ({"strategies": None}, "strategies None: write a name"),
        ({"batch_per_worker": "many"}, "batch_per_worker 'many': "),
        ({"algorithms": {"all_reduce": 3}}, "algorithms.all_reduce 3: "),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_arguments_are_one_line(options: dict[str, Any], message: str) -> None:
    asked = {"job": "fm", "cluster": "one-switch_16", "strategies": "table_wise", "gpus": 2} | options
    with pytest.raises(dessim.DessimError) as error:
        dessim.project(**asked)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: dessim.plan_job("fm", "one-switch_16", 0, 1024), "--gpus 0: write whole numbers"),
        (lambda: dessim.plan_job("fm", "one-switch_16", [], 1024), "--gpus none: write whole numbers"),
        (lambda: dessim.plan_job("fm", "one-switch_16", 2, 0), "--batch 0: at least 1"),
        (lambda: dessim.collective("one-switch_16", "all_reduce", 4, float("nan")), "--size must be more than 0"),
        (lambda: dessim.check("golden.json", 5), "not of type int"),  # type: ignore[arg-type]
        (lambda: dessim.check("golden.json", tolerance="x"), "tolerance 'x'"),  # type: ignore[arg-type]
        (lambda: dessim.goodput(8, "1 h", 60, 60), "mtbf_s '1 h': "),  # type: ignore[arg-type]
        (lambda: dessim.goodput(8, -1.0, 60, 60), "mtbf_s -1.0: "),
        (lambda: dessim.goodput(8, 1e6, 60, 60, runs=2.5), "runs 2.5: "),  # type: ignore[arg-type]
        (lambda: dessim.load_cluster(None), "name a cluster by a str or Path, not by an object of type NoneType"),  # type: ignore[arg-type]
        (lambda: dessim.load_model(1.5), "name a model by a str or Path"),  # type: ignore[arg-type]
        (lambda: dessim.load_trace(3), "name a trace by a str or Path"),  # type: ignore[arg-type]
    ],
    ids=range(12),
)
def test_wrong_arguments_of_other_studies_are_one_line(ask: Callable[[], Any], message: str) -> None:
    with pytest.raises(dessim.UsageError, match=re.escape(message)):
        ask()
