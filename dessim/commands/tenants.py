"""Tenants: how the jobs of a page fare on one cluster, each against itself alone on the same GPUs.

A step of a job is that of a projection: sizes by formula, compute by roofline, communication simulated - here together
with what the others send.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dessim.cluster import Cluster
from dessim.commands.support.step import step_of
from dessim.commands.support.tenants_file import JobTable, TenantsPage
from dessim.errors import UsageError
from dessim.results.metrics import Breakdown, breakdown
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sim.jobs.job import JobResult, Tenant
from dessim.sim.jobs.tenants import simulate_tenants
from dessim.sim.progress import Progress
from dessim.trace.schema import Collective
from dessim.workload.memory import memory_of, require
from dessim.workload.model import load_model
from dessim.workload.scale import Job
from dessim.workload.strategies import find_spec
from dessim.workload.strategies import plan as plan_of


@dataclass(frozen=True, slots=True)
class TenantResult:
    """A job of the page, how it fared, and its steps taken apart, each with how many there were like it."""

    table: JobTable
    stay: JobResult
    parts: tuple[tuple[Breakdown, int], ...]
    provenance: Mapping[str, str]
    caveat: str

    @property
    def bytes_by_link(self) -> dict[str, float]:
        """Bytes that each link class carried for the whole job."""
        total: dict[str, float] = {}
        for part, count in self.parts:
            for kind, size in part.bytes_by_link.items():
                total[kind] = total.get(kind, 0.0) + count * size
        return total

    @property
    def bounds_s(self) -> dict[str, float]:
        """Seconds a step, by what bound them on the critical path; the most first."""
        total: dict[str, float] = {}
        for part, count in self.parts:
            for op in part.critical_path:
                for bound, seconds in op.parts.items():
                    total[bound] = total.get(bound, 0.0) + count * seconds / self.stay.steps
        return dict(sorted(total.items(), key=lambda pair: -pair[1]))

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys. `steps_simulated` of the steps were simulated, the others like those."""
        table, stay = self.table, self.stay

        def mean(name: str) -> float:
            return sum(count * float(getattr(part, name)) for part, count in self.parts) / stay.steps

        bounds = self.bounds_s
        return {
            "name": table.name,
            "model": table.model,
            "strategy": table.strategy,
            "gpus": table.n_gpus,
            "placement": table.placement if isinstance(table.placement, str) else "listed",
            "gpu_ids": stay.gpus.tolist(),
            "steps": stay.steps,
            "steps_simulated": len(self.parts),
            "arrival_s": stay.arrival,
            "wait_s": stay.wait_s,
            "start_s": stay.start,
            "end_s": stay.end,
            "step_time_s": stay.step_time_s,
            "alone_step_time_s": stay.alone_s,
            "slowdown": stay.slowdown,
            "compute_s": mean("compute_s"),
            "exposed_comm_s": mean("exposed_comm_s"),
            "idle_s": mean("idle_s"),
            "bound_by": next(iter(bounds), "compute"),
            "bounds_s": bounds,
            "bytes_by_link": self.bytes_by_link,
            "provenance": dict(self.provenance),
            "caveat": self.caveat,
        }


@dataclass(frozen=True, slots=True)
class TenantsResult:
    """All jobs of a page, in its order."""

    cluster: Cluster
    jobs: tuple[TenantResult, ...]

    @property
    def end_s(self) -> float:
        """When the last job is over; time starts at 0."""
        return max(job.stay.end for job in self.jobs)

    @property
    def gpu_share(self) -> float:
        """Of all GPU seconds from 0 to the end, those that belonged to a job."""
        taken = sum(len(job.stay.gpus) * (job.stay.end - job.stay.start) for job in self.jobs)
        return taken / (self.cluster.n_gpus * self.end_s)

    @property
    def link_shares(self) -> dict[str, float]:
        """Of what all links of a class could have carried from 0 to the end, what they did."""
        links, carried = self.cluster.links, {}
        for kind in links.kinds:
            size = sum(job.bytes_by_link.get(kind, 0.0) for job in self.jobs)
            carried[kind] = size / (float(links.capacity[links.of_kind(kind)].sum()) * self.end_s)
        return carried

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        return {
            "cluster": self.cluster.name,
            "gpus": self.cluster.n_gpus,
            "end_s": self.end_s,
            "utilisation": {"gpus": self.gpu_share, "links": self.link_shares},
            "jobs": [job.to_json() for job in self.jobs],
        }


def tenants(
    page: TenantsPage,
    cluster: Cluster,
    algorithms: Mapping[Collective, str] | None = None,
    folding: bool = True,
    progress: Progress | None = None,
) -> TenantsResult:
    """How the jobs of `page` fare on `cluster`.

    Raises CapacityError where a job does not fit the cluster or its GPUs' memory, UsageError, OutOfTime.
    """
    priced = [_priced(table, cluster) for table in page.job]
    stays = simulate_tenants(RouteCache(cluster, folding), [tenant for tenant, _, _ in priced], algorithms, progress)
    return TenantsResult(cluster, tuple(_results(page.job, stays, priced)))


def _results(
    tables: Sequence[JobTable], stays: Sequence[JobResult], priced: Sequence[tuple[Tenant, dict[str, str], str]]
) -> list[TenantResult]:
    found = []
    for table, stay, (_, provenance, caveat) in zip(tables, stays, priced, strict=True):
        parts = tuple((breakdown(record), count) for record, count in stay.records)
        found.append(TenantResult(table, stay, parts, provenance, caveat))
    return found


def _priced(table: JobTable, cluster: Cluster) -> tuple[Tenant, dict[str, str], str]:
    """A job as the simulator takes it, where its numbers come from, and what its plan leaves out."""
    if (spec := find_spec(table.strategy)) is not None and spec.dedicated_servers:
        line = f"{spec.name} needs servers of its own, which tenants do not have; try ps_sync"
        raise UsageError(f"job {table.name!r}: {line}")
    job = Job.of_model(load_model(table.model))
    plan, gpu = plan_of(table.strategy, job.model).pipelined(), cluster.device(range(cluster.n_gpus), "dessim tenants")
    symbols = plan.symbols(job.symbols(table.n_gpus, table.batch_per_worker))
    what = f"job {table.name!r}, {plan.strategy} of {job.model.name} on {table.n_gpus:,} GPUs"
    require(memory_of(plan, symbols), gpu.memory, gpu.name, what, symbols)
    workload, compute_from = step_of(job, cluster, plan, symbols)
    tenant = Tenant(table.name, workload, table.arrival, table.steps, table.placement, table.seed or 0)
    provenance = {
        "compute": compute_from,
        "communication": f"simulated on {cluster.name} with the other jobs; transport {cluster.transport.name}",
        "sizes": job.sizes_from,
    }
    return tenant, provenance, plan.caveat
