"""Tenants: several jobs on one cluster, each compared with itself alone on the same GPUs.

A step of a job is that of a projection: sizes by formula, compute by roofline, communication simulated. The simulation
includes the traffic of the other jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dessim.cluster import Cluster
from dessim.commands.support.spreads import spreads_on
from dessim.commands.support.step import step_of
from dessim.commands.support.tenants_file import JobTable, TenantsFile
from dessim.errors import CapacityError, UsageError
from dessim.results.error_bar import ErrorBar, error_bar
from dessim.results.metrics import Breakdown, breakdown
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sim.jobs.job import JobResult, Tenant
from dessim.sim.jobs.tenants import simulate_tenants
from dessim.sim.progress import Progress
from dessim.trace.schema import Collective
from dessim.workload.memory import memory_of, require
from dessim.workload.model import load_model
from dessim.workload.owners import owners_of
from dessim.workload.scale import Job
from dessim.workload.strategies import find_spec
from dessim.workload.strategies import plan as plan_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantsRequest:
    """The jobs of a tenants file, and the cluster that they share.

    `algorithms` fixes the algorithm of a collective for all jobs; the others use `auto`. `folding=False` simulates
    identical flows one by one; the result is the same.
    """

    tenants: TenantsFile
    cluster: Cluster
    algorithms: Mapping[Collective, str] | None = None
    folding: bool = True


@dataclass(frozen=True, slots=True)
class TenantResult:
    """The result of one job. `breakdowns` pairs each distinct step with the number of steps identical to it."""

    table: JobTable
    outcome: JobResult
    breakdowns: tuple[tuple[Breakdown, int], ...]
    provenance: Mapping[str, str]
    caveat: str
    bar: ErrorBar | None

    @property
    def bytes_by_link(self) -> dict[str, float]:
        """Bytes that each class of links carried for this job, over all its steps."""
        total: dict[str, float] = {}
        for step, count in self.breakdowns:
            for kind, size in step.bytes_by_link.items():
                total[kind] = total.get(kind, 0.0) + count * size
        return total

    @property
    def bounds_s(self) -> dict[str, float]:
        """Mean seconds of a step by the bottleneck on its critical path, largest first."""
        total: dict[str, float] = {}
        for step, count in self.breakdowns:
            for op in step.critical_path:
                for bottleneck, seconds in op.parts.items():
                    total[bottleneck] = total.get(bottleneck, 0.0) + count * seconds / self.outcome.steps
        return dict(sorted(total.items(), key=lambda pair: -pair[1]))

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys. Only `steps_simulated` steps were simulated; the others are identical."""
        table = self.table
        outcome = self.outcome

        def mean(name: str) -> float:
            return sum(count * float(getattr(step, name)) for step, count in self.breakdowns) / outcome.steps

        bounds = self.bounds_s
        return {
            "name": table.name,
            "model": table.model,
            "strategy": table.strategy,
            "gpus": table.n_gpus,
            "placement": table.placement if isinstance(table.placement, str) else "listed",
            "gpu_ids": outcome.gpus.tolist(),
            "steps": outcome.steps,
            "steps_simulated": len(self.breakdowns),
            "arrival_s": outcome.arrival,
            "wait_s": outcome.wait_s,
            "start_s": outcome.start,
            "end_s": outcome.end,
            "step_time_s": outcome.step_time_s,
            "interval": self.bar.to_json(outcome.step_time_s) if self.bar else None,
            "alone_step_time_s": outcome.alone_s,
            "slowdown": outcome.slowdown,
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
    """The results of all jobs, in the order of the tenants file."""

    cluster: Cluster
    jobs: tuple[TenantResult, ...]

    @property
    def end_s(self) -> float:
        """Seconds from 0 to the end of the last job."""
        return max(job.outcome.end for job in self.jobs)

    @property
    def gpu_share(self) -> float:
        """Share of all GPU seconds, from 0 to the end, in which the GPU belonged to a job."""
        taken = sum(len(job.outcome.gpus) * (job.outcome.end - job.outcome.start) for job in self.jobs)
        return taken / (self.cluster.n_gpus * self.end_s)

    @property
    def link_shares(self) -> dict[str, float]:
        """Bytes carried by each class of links, as a share of its capacity from 0 to the end."""
        links = self.cluster.links
        shares = {}
        for kind in links.kinds:
            carried = sum(job.bytes_by_link.get(kind, 0.0) for job in self.jobs)
            shares[kind] = carried / (float(links.capacity[links.of_kind(kind)].sum()) * self.end_s)
        return shares

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        return {
            "cluster": self.cluster.name,
            "gpus": self.cluster.n_gpus,
            "end_s": self.end_s,
            "utilisation": {"gpus": self.gpu_share, "links": self.link_shares},
            "jobs": [job.to_json() for job in self.jobs],
        }


def run_tenants(request: TenantsRequest, progress: Progress | None = None) -> TenantsResult:
    """Simulate all jobs on their cluster.

    Raises CapacityError where a job does not fit the cluster or its GPUs' memory, UsageError, and OutOfTime when
    `progress` ends the run.
    """
    for table in request.tenants.job:
        if table.n_gpus > request.cluster.n_gpus:  # before anything is made for each of its GPUs
            has = f"cluster {request.cluster.name} has {request.cluster.n_gpus:,} GPUs"
            raise CapacityError(f"job {table.name!r}: {has}, too few for {table.n_gpus:,} ranks")
    priced = [_price(table, request.cluster) for table in request.tenants.job]
    outcomes = simulate_tenants(
        RouteCache(request.cluster, request.folding),
        [job.tenant for job in priced],
        request.algorithms,
        progress,
    )
    results = tuple(_result(job, outcome, request.cluster) for job, outcome in zip(priced, outcomes, strict=True))
    return TenantsResult(request.cluster, results)


@dataclass(frozen=True, slots=True)
class _PricedJob:
    """A job as the simulator takes it, the source of its numbers, and what its plan leaves out."""

    table: JobTable
    tenant: Tenant
    provenance: Mapping[str, str]
    caveat: str


def _price(table: JobTable, cluster: Cluster) -> _PricedJob:
    """Turn a job of the file into a step with sizes and compute times. Raises UsageError or CapacityError."""
    spec = find_spec(table.strategy)
    if spec is not None and spec.dedicated_servers:
        raise UsageError(
            f"job {table.name!r}: {spec.name} needs dedicated servers, which tenants do not have; try ps_sync"
        )
    job = Job.of_model(load_model(table.model))
    plan = plan_of(table.strategy, job.model).pipelined()
    gpu = cluster.device(range(cluster.n_gpus), "dessim tenants")
    symbols = plan.symbols(job.symbols(table.n_gpus, table.batch_per_worker))
    job_name = f"job {table.name!r}, {plan.strategy} of {job.model.name} on {table.n_gpus:,} GPUs"
    owners = owners_of(plan, job.model, symbols)
    require(memory_of(plan, symbols, owners), gpu.memory, gpu.name, what=job_name, symbols=symbols)
    workload, compute_source = step_of(job, cluster, plan, symbols, owners)
    tenant = Tenant(
        name=table.name,
        workload=workload,
        arrival=table.arrival,
        steps=table.steps,
        placement=table.placement,
        seed=table.seed or 0,
    )
    provenance = {
        "compute": compute_source,
        "communication": f"simulated on {cluster.name} with the other jobs; transport {cluster.transport.name}",
        "sizes": job.sizes_from,
    }
    return _PricedJob(table, tenant, provenance, plan.caveat)


def _result(job: _PricedJob, outcome: JobResult, cluster: Cluster) -> TenantResult:
    breakdowns = tuple((breakdown(record), count) for record, count in outcome.records)
    groups = {name: outcome.gpus[list(ranks)].tolist() for name, ranks in job.tenant.workload.groups.items()}
    path = [op.times(count) for step, count in breakdowns for op in step.critical_path]
    return TenantResult(
        table=job.table,
        outcome=outcome,
        breakdowns=breakdowns,
        provenance=job.provenance,
        caveat=job.caveat,
        bar=error_bar(path, spreads_on(cluster, groups)),
    )
