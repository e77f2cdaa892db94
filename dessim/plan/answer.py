"""The answer of the planner in few numbers, for the demo."""

from __future__ import annotations

from typing import Any

from dessim.cluster import Cluster
from dessim.plan.scales import PlanRequest, run_plan
from dessim.workload.scale import Job


def planned(job: Job, cluster: Cluster, gpus: int, batch_per_gpu: int) -> dict[str, Any]:
    """The fastest plan of a job, its samples/s with their 80 % interval, and its lead over the best single strategy."""
    scale = run_plan(PlanRequest(job, cluster, [gpus], batch_per_gpu, per_gpu=True)).best
    best = scale.plans.best
    alone = [candidate.row for candidate in scale.plans.candidates if not candidate.tables]
    fastest = max(alone, key=lambda row: row.samples_per_s) if alone else None
    bar = best.row.bar
    step_s = best.row.breakdown.step_time_s
    ends = None if bar is None else [scale.plans.batch / seconds for seconds in reversed(bar.interval(step_s))]
    return {
        "model": job.model.name,
        "gpus": gpus,
        "batch_per_gpu": batch_per_gpu,
        "strategy": best.row.strategy,
        "is_composed": bool(best.tables),
        "samples_per_s": scale.samples_per_s,
        "interval_samples_per_s": ends,
        "best_alone": None if fastest is None else fastest.strategy,
        "lead": None if fastest is None else scale.samples_per_s / fastest.samples_per_s - 1,
    }
