"""Steps of readings: the compute of each op split in products of matrices and the rest, and the fit of one factor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dessim.cluster import Cluster, load_cluster
from dessim.commands.support.guard import least_step
from dessim.commands.support.step import work_of
from dessim.compute import Access
from dessim.results.metrics import Breakdown, breakdown
from dessim.sim.core.kernel_times import op_seconds
from dessim.sim.engine import simulate
from dessim.trace.schema import Kind
from dessim.units import parse_time
from dessim.workload.from_plan import workload_from_plan
from dessim.workload.model import load_model
from dessim.workload.owners import Owner, owners_of
from dessim.workload.plan import Plan
from dessim.workload.scale import Job
from dessim.workload.strategies import plan as plan_of

CLUSTERS = Path(__file__).parent / "clusters"
FACTORS = ("compute", "beside_products")


@dataclass(frozen=True, slots=True)
class Compute:
    """Seconds of an op: its products of matrices, and the rest."""

    products: float
    rest: float
    is_table: bool

    def scaled(self, factor: float, kind: str) -> float:
        """Seconds with the factor of a software, one of FACTORS."""
        return factor * (self.products + self.rest) if kind == "compute" else self.products + factor * self.rest


@dataclass(frozen=True, slots=True)
class Reading:
    """A measured step of `seconds`, ready to be simulated. `compute` are the ops of each owner, by name."""

    name: str
    seconds: float
    is_fitted: bool
    job: Job
    cluster: Cluster
    plan: Plan
    symbols: Mapping[str, float]
    owners: tuple[Owner, ...]
    compute: tuple[Mapping[str, Compute], ...]

    def step(self, factor: float, kind: str) -> Breakdown:
        """Simulate the step with the factor of a software."""
        durations = [{name: op.scaled(factor, kind) for name, op in ops.items()} for ops in self.compute]
        workload = workload_from_plan(self.plan, self.symbols, durations, owners=self.owners)
        found = breakdown(simulate(self.cluster, workload, None))
        if factor >= 1:
            least_step(self.job, self.cluster, self.plan, self.symbols, self.owners).require(
                found.step_time_s, self.name
            )
        return found


def read(software: Mapping[str, Any], entry: Mapping[str, Any]) -> Reading:
    """A reading of study.toml. Launches are CUDA graphs, and the ids of the next step are sent under this one."""
    model = load_model(software["model"])
    job = Job.of_model(model.at(model.precision.changed(entry["precision"])))
    n = entry["gpus"]
    cluster = load_cluster(CLUSTERS / f"{entry['cluster']}.toml")
    plan = replace(plan_of(software["strategy"], job.model).pipelined(), graphs=True)
    symbols = plan.symbols(job.symbols(n, entry["batch_per_worker"]))
    owners = (Owner(range(n)),) if software["balanced"] else owners_of(plan, job.model, symbols)
    seconds = parse_time(entry["step"]) if "step" in entry else symbols["B"] / entry["samples_per_s"]
    return Reading(
        name=entry["name"],
        seconds=seconds,
        is_fitted=entry.get("fitted", False),
        job=job,
        cluster=cluster,
        plan=plan,
        symbols=symbols,
        owners=owners,
        compute=tuple(_compute(cluster, plan, symbols, owner) for owner in owners),
    )


def _compute(cluster: Cluster, plan: Plan, symbols: Mapping[str, float], owner: Owner) -> dict[str, Compute]:
    found = {}
    for op in plan.ops:
        if op.kind is Kind.COMPUTE:
            work = work_of(op, owner.symbols(symbols, op.role), plan.precision)
            parts = (work, work.without_products())
            whole, rest = (op_seconds(cluster.gpu, part, plan.graphs) for part in parts)
            found[op.name] = Compute(whole - rest, rest, is_table=op.access is not Access.STREAM)
    return found


def fitted_factor(step_s: Callable[[float], float], measured_s: float) -> float:
    """The factor with which a step that grows with it takes `measured_s`, to nine digits."""
    low, high = 0.0, 64.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if step_s(middle) < measured_s else (low, middle)
    return float(f"{low:.9g}")
