"""Projection: what a step would take with another strategy, on another cluster, at another scale.

Sizes come from formulas, communication from simulation, compute from a roofline of the cluster's GPU - or, where the
trace was recorded on that very device, from its measured times scaled by the ratio of rooflines. Every row says which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dessim.cluster import Cluster
from dessim.errors import UsageError
from dessim.results.metrics import Breakdown, breakdown
from dessim.sim.collective import Routed
from dessim.sim.device import roofline
from dessim.sim.engine import simulate
from dessim.sim.recorder import Record
from dessim.sim.watch import Watch
from dessim.trace.schema import Collective, Kind
from dessim.workload import formula
from dessim.workload.from_plan import workload_from_plan
from dessim.workload.plan import Plan, PlannedOp, Traffic
from dessim.workload.scale import Job
from dessim.workload.strategies import plan as plan_of


@dataclass(frozen=True, slots=True)
class Projection:
    """One row: a strategy at a scale. `provenance` says where compute, communication and sizes come from."""

    gpus: int
    strategy: str
    batch: int
    breakdown: Breakdown
    bytes_per_worker: float
    bytes_by_traffic: Mapping[str, float]
    provenance: Mapping[str, str]
    caveat: str
    error_bar: float | None
    record: Record

    @property
    def samples_per_s(self) -> float:
        return self.batch / self.breakdown.step_time_s

    def to_json(self) -> dict[str, Any]:
        """A row of `projection`: units in the keys, breakdown beside the totals."""
        parts = self.breakdown.to_json()
        return {
            "gpus": self.gpus,
            "strategy": self.strategy,
            "batch": self.batch,
            "step_time_s": parts.pop("step_time_s"),
            "samples_per_s": self.samples_per_s,
            "bytes_per_worker": self.bytes_per_worker,
            "bytes_by_traffic": dict(self.bytes_by_traffic),
            **parts,
            "error_bar": self.error_bar,
            "provenance": dict(self.provenance),
            "caveat": self.caveat,
        }


def project(
    job: Job,
    cluster: Cluster,
    strategies: Sequence[str],
    gpus: Sequence[int],
    batch_per_worker: int | None = None,
    algorithms: Mapping[Collective, str] | None = None,
    error_bar: float | None = None,
    folding: bool = True,
    watch: Watch | None = None,
    each: Callable[[Projection], None] | None = None,
) -> list[Projection]:
    """Rows for every strategy at every scale, in the order given. The batch a worker stays fixed (weak scaling).

    `error_bar` is the relative error measured where the job was recorded, if it was. `each` is given every row as soon
    as it is ready: those before `watch` ended the run. Raises UsageError, CapacityError, OutOfTime.
    """
    if not strategies or not gpus:
        raise UsageError("name at least one strategy and one number of GPUs")
    plans = [plan_of(name, job.model) for name in strategies]
    for n in gpus:
        if n < 1:
            raise UsageError(f"--gpus {n}: a job needs at least 1 GPU")
        cluster.require(n)
    routed = Routed(cluster, folding)
    watch, rows = watch or Watch(), []
    cases = [(n, plan) for n in gpus for plan in plans]
    for done, (n, plan) in enumerate(cases):
        part = watch.within(done, len(cases), "projections")
        rows.append(_row(job, routed, plan, n, batch_per_worker, algorithms, error_bar, part))
        if each is not None:
            each(rows[-1])
    return rows


def _row(
    job: Job,
    routed: Routed,
    plan: Plan,
    n: int,
    batch_per_worker: int | None,
    algorithms: Mapping[Collective, str] | None,
    error_bar: float | None,
    watch: Watch,
) -> Projection:
    cluster = routed.cluster
    symbols = job.symbols(n, batch_per_worker)
    durations, compute_from = _durations(job, cluster, plan, symbols)
    record = simulate(cluster, workload_from_plan(plan, symbols, durations), algorithms, routed=routed, watch=watch)
    return Projection(
        gpus=n,
        strategy=plan.strategy,
        batch=round(symbols["B"]),
        breakdown=breakdown(record),
        bytes_per_worker=plan.sent_bytes(symbols),
        bytes_by_traffic={str(t): plan.sent_bytes(symbols, t) for t in Traffic if t is not Traffic.NONE},
        provenance={
            "compute": compute_from,
            "communication": f"simulated on {cluster.name}; transport {cluster.transport.name}",
            "sizes": job.sizes_from,
        },
        caveat=plan.caveat,
        error_bar=error_bar,
        record=record,
    )


def _durations(job: Job, cluster: Cluster, plan: Plan, symbols: Mapping[str, float]) -> tuple[dict[str, float], str]:
    """Seconds of each compute op, and where they come from."""
    ops = [op for op in plan.ops if op.kind is Kind.COMPUTE]
    bound = {op.name: _roofline(op, cluster, symbols) for op in ops}
    same_device = job.device == cluster.gpu.name and job.strategy == plan.strategy
    if not same_device or any(op.name not in job.measured_s for op in ops):
        return bound, f"assumed: roofline of {cluster.gpu.name}"
    scaled = {
        op.name: job.measured_s[op.name] * bound[op.name] / _roofline(op, cluster, job.measured_symbols) for op in ops
    }
    return scaled, f"measured on {job.device}, scaled by the ratio of its roofline"


def _roofline(op: PlannedOp, cluster: Cluster, symbols: Mapping[str, float]) -> float:
    return roofline(
        cluster.gpu, formula.evaluate(op.flops, symbols), formula.evaluate(op.mem, symbols), float(op.kernels)
    )
