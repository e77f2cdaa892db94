"""The planner's answer in the demo: plan, throughput with its interval, and lead over the best single strategy."""

from __future__ import annotations

import pytest

from dessim.commands.support.demo_screen import plan_sentence
from dessim.plan.answer import planned
from dessim.plan.scales import PlanRequest, run_plan
from dessim.workload.scale import Job
from tests.plan.small import TABLES, cluster, model_of

PLAN = {
    "model": "small",
    "gpus": 8,
    "batch_per_gpu": 8192,
    "strategy": "3 column_wise, 2 row_all_to_all",
    "is_composed": True,
    "samples_per_s": 72.87e6,
    "interval_samples_per_s": [55.3e6, 96.03e6],
    "best_alone": "row_wise",
    "lead": 0.3421,
}


def test_the_answer_is_that_of_the_plan() -> None:
    job = Job.of_model(model_of(TABLES[:2]))
    answer = planned(job, cluster(), 8, 8192)
    best = run_plan(PlanRequest(job, cluster(), [8], 65_536)).best.to_json()
    assert (answer["strategy"], answer["samples_per_s"]) == (best["strategy"], best["samples_per_s"])
    assert answer["lead"] == pytest.approx(min(best["leads"].values()), abs=1e-12)
    low, high = answer["interval_samples_per_s"]
    assert low < answer["samples_per_s"] < high
    assert [65_536 / high, 65_536 / low] == pytest.approx(list(best["plans"][0]["interval"].values())[:2])


def test_the_sentence_names_plan_speed_interval_and_lead() -> None:
    assert plan_sentence(PLAN) == (
        "small on 8 GPUs, 8,192 samples each: 3 column-wise, 2 row AllToAll, 72.87 M samples/s "
        "(80 % interval 55.3 M to 96.03 M), 34 % faster than row-wise alone"
    )
    alone = {**PLAN, "strategy": "row_all_to_all", "is_composed": False, "interval_samples_per_s": None}
    assert plan_sentence(alone) == (
        "small on 8 GPUs, 8,192 samples each: row AllToAll for all tables, 72.87 M samples/s; "
        "no plan of several strategies is faster"
    )
    assert plan_sentence({**PLAN, "best_alone": None}).endswith("; no single strategy fits")
