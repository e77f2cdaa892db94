"""Plans with replicas of the tables: which numbers are tried, that they compete, and their file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dessim.cluster import load_cluster
from dessim.plan.candidates import PlanProblem
from dessim.plan.replicated import numbers
from dessim.plan.scales import PlanRequest, run_plan
from dessim.workload.model import load_model
from dessim.workload.plan_file import write_plan
from dessim.workload.scale import Job
from tests.plan.small import cluster, model_of, model_text
from tests.plan.test_plan import run

TABLES = ((100_000, 40), (60_000, 30), (200_000, 30))
CLUSTER = "a100-8x_tworooms_12"


def test_numbers_that_give_every_block_whole_servers_are_tried() -> None:
    problem = PlanProblem(Job.of_model(model_of()), cluster(), 64, 65_536, {})
    assert numbers(problem, 8) == [2, 4, 8]
    named = PlanProblem(Job.of_model(model_of()), cluster(), 1024, 65_536, {}, replicas=[1, 2, 3, 2048])
    assert numbers(named, 8) == [2]
    assert not numbers(PlanProblem(Job.of_model(model_of()), cluster(), 1024, 65_536, {}), 8)
    assert not numbers(PlanProblem(Job.of_model(model_of()), cluster(), 8, 65_536, {}), 0)


def test_they_compete_and_are_projected_to_the_planned_step(tmp_path: Path) -> None:
    """Two servers, each with all rows: ids, rows and gradients of samples stay on NVLink."""
    model, out = tmp_path / "small.toml", tmp_path / "job.plan.toml"
    model.write_text(model_text(TABLES))
    sized, machine = load_model(str(model)), load_cluster(CLUSTER)
    only = PlanRequest(
        job=Job.of_model(sized),
        cluster=machine,
        gpus=[16],
        batch=65_536,
        strategies=("row_all_to_all",),
        by_table=True,
        replicas=[2],
    )
    (scale,) = run_plan(only).scales
    best, without = scale.plans.candidates
    assert best.row.strategy == "3 row_all_to_all, 2 replicas" and without.row.strategy == "row_all_to_all"
    assert best.replicas == 2 and best.row.memory.rows == pytest.approx(2 * without.row.memory.rows)
    assert best.estimate_s == pytest.approx(best.row.breakdown.step_time_s, rel=0.3)
    write_plan(out, scale.plans.job_plan(), sized, machine)
    code, text, error = run("project", "--model", model, "--cluster", CLUSTER, "--plan", out, "--json")
    assert code == 0, error
    (row,) = json.loads(text)["projection"]
    assert row["step_time_s"] == pytest.approx(best.row.breakdown.step_time_s, rel=1e-12)


def test_torchrec_has_none(tmp_path: Path) -> None:
    model = tmp_path / "small.toml"
    model.write_text(model_text(TABLES))
    common = ("plan", "--model", model, "--cluster", CLUSTER, "--gpus", "16", "--batch", "65536", "--replicas", "2")
    code, _, error = run(*common, "--to", "torchrec", "-o", tmp_path / "plan.json")
    assert code == 2 and "TorchRec's plans name no replicas" in error


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--replicas", "2,3"), "--replicas 3: no number of --gpus divides evenly into 3 blocks"),
        (("--replicas", "2", "--codecs", "bf16"), "tried without codecs; add fp32 to --codecs"),
        (("--replicas", "2", "--codecs", "dense=bf16"), "tried without codecs; add fp32 to --codecs"),
    ],
)
def test_numbers_that_no_plan_can_have_are_refused(options: tuple[str, ...], says: str) -> None:
    code, _, error = run("plan", "--model", "fm", "--cluster", CLUSTER, "--gpus", "16,32", "--batch", "65536", *options)
    assert code == 2 and says in error and error.count("\n") == 1
