"""The planner held against plans that were trained: jobs, predictions and verdicts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dessim.calibrate.profile import fit_profile
from dessim.cluster import load_cluster
from dessim.cluster.load import load_device
from dessim.validate.outcome import SPLITS, Outcome
from dessim.validate.plan_cases import planned_jobs, read_plans
from dessim.validate.plans import KIND, OURS, broken_by, choices, predict
from dessim.workload.composed import compose
from tests.calibrate.test_messages import TRUE, bench

BOUNDS = read_plans()["bounds"]


def outcome(job: str, plan: str, predicted_s: float, measured_s: float) -> Outcome:
    return Outcome(f"{job}: {plan}", KIND, "held_out", predicted_s, measured_s)


def job_of(regret: float, job: str = "bed, model") -> list[Outcome]:
    """Three plans; the planner's takes 1 + `regret` times the fastest."""
    ours = outcome(job, OURS, 1.0, 1.0 + regret)
    return [outcome(job, "row_wise", 1.1, 1.0), outcome(job, "table_wise", 3.0, 3.0), ours]


@pytest.mark.parametrize("split", ["development", "held_out"])
def test_a_split_has_four_beds_and_three_models_of_unequal_tables_with_six_plans_or_more(split: str) -> None:
    jobs = planned_jobs(read_plans(), [split])
    assert len({job.bed for job in jobs}) == 4 and len({job.model.name for job in jobs}) == 3 and len(jobs) == 12
    for job in jobs:
        assert job.split == split and job.batch == job.model.input.batch_per_worker
        assert len({(table.rows, table.ids) for table in job.model.tables}) > 3
        assert len(job.plans) >= 6
        for plan in job.plans.values():
            assert plan.gpus == load_cluster(job.bed).n_gpus and plan.batch == plan.gpus * job.batch
            if plan.tables:
                compose(job.model, plan.tables)
                assert all(rank < plan.gpus for table in plan.tables for rank in table.ranks)


def test_no_model_of_a_held_out_job_was_seen() -> None:
    models = {split: {job.model.name for job in planned_jobs(read_plans(), [split])} for split in SPLITS}
    assert not models["development"] & models["held_out"] and not models["calibration"]


def test_a_choice_is_judged_by_the_fastest_measured_plan() -> None:
    (found,) = choices(job_of(0.1))
    assert found.best == "row_wise" and found.regret == pytest.approx(0.1)
    assert found.rank_correlation == pytest.approx(0.5)  # predicted 2, 3, 1; measured 1, 3, 2
    assert not choices([Outcome("bed: all_reduce", "collectives", "held_out", 1.0, 1.0)])


@pytest.mark.parametrize(
    ("regrets", "said"),
    [
        ([-0.01] * 9 + [0.11], []),
        ([-0.01] * 8 + [0.06, 0.11], ["within 5% of the fastest in 80% of 10 jobs"]),
        ([-0.01] * 9 + [0.13], ["13% slower than the fastest"]),
        ([0.1] * 10, ["in 0% of 10 jobs", "rank correlation 0.50"]),
    ],
)
def test_a_sentence_states_each_bound_that_is_exceeded(regrets: list[float], said: list[str]) -> None:
    outcomes = [one for number, regret in enumerate(regrets) for one in job_of(regret, f"bed {number}, model")]
    lines = broken_by(choices(outcomes), BOUNDS)
    assert len(lines) == len(said) and all(part in line for part, line in zip(said, lines, strict=True))
    assert not broken_by([], BOUNDS)
    assert not broken_by([replace(choice, split="development") for choice in choices(outcomes)], BOUNDS)


def test_workers_share_the_cores_of_the_machine() -> None:
    """On half as many cores as workers a step takes longer, but less than twice as long. Links are fast."""
    job = replace(planned_jobs(read_plans())[0], scale=4.0)
    bed = bench(load_cluster("lab/switch_8"), TRUE)
    transport = fit_profile({"cluster": "lab/switch_8", "where": {}, "bench": bed}).transport
    device = load_device("cpu-core")
    workers = load_cluster(job.bed).n_gpus
    own, half = (job.cluster(transport, replace(device, shared_cores=cores)) for cores in (workers, workers // 2))
    plans = {name: job.plans[name] for name in ("row_wise", "small tables copied, others whole")}
    steps = [predict(job, plans, cluster) for cluster in (own, half)]
    assert all(steps[0][name] < steps[1][name] < 2 * steps[0][name] for name in plans)
