"""Several jobs on one fabric: they arrive, wait for GPUs, share links, and leave.

Jobs share one clock and one fabric, nothing else: a GPU belongs to one job at a time. A job that finds too few free
GPUs waits. Jobs start in order of arrival, so a small job never overtakes a large one. A job's GPUs are chosen when it
starts (dessim.cluster.placement) and belong to it until it ends. It runs a number of equal steps; each begins when all
ranks have ended the one before, as in a projection of one step.

Left out: preemption, jobs that grow or shrink, and what a job does before its first step and after its last.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import simpy
from simpy.events import EventPriority

from dessim.arrays import Ints
from dessim.cluster.placement import gpu_of_each_rank, place
from dessim.errors import DeadlockError, OutOfTime, UsageError
from dessim.sim.core.blas import one_blas_thread
from dessim.sim.core.recorder import Record
from dessim.sim.engine import JobRun, Process
from dessim.sim.fluid.fabric import FlowFabric
from dessim.sim.fluid.model import FluidNetwork
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sim.jobs.job import JobResult, RunningJob, Tenant
from dessim.sim.jobs.steady_state import InterferenceGroup, interference_groups
from dessim.sim.progress import Progress
from dessim.trace.schema import Collective

_AFTER_ALL_OTHERS = EventPriority(2)  # simpy's own priorities are 0 and 1


class _EndOfInstant(simpy.Event):
    """Fires at this instant, after everything else that happens in it."""

    def __init__(self, env: simpy.Environment) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        env.schedule(self, priority=_AFTER_ALL_OTHERS)


class _Scheduler:
    """Which GPUs are free, which jobs wait, and which jobs may share links."""

    def __init__(
        self,
        routed: RouteCache,
        tenants: Sequence[Tenant],
        algorithms: Mapping[Collective, str] | None,
        progress: Progress,
        steady_state: bool,
    ) -> None:
        self.env = simpy.Environment()
        self.routed = routed
        self.algorithms = algorithms
        self.progress = progress
        self.steady_state = steady_state
        self.fabric = FlowFabric(self.env, routed.cluster, routed.folding, progress)
        self.free = np.ones(routed.cluster.n_gpus, dtype=bool)
        self.queue: deque[tuple[Tenant, simpy.Event]] = deque()
        self.arrivals = sorted(tenant.arrival for tenant in tenants)  # in the future
        self.groups: list[InterferenceGroup[RunningJob]] = []
        self.steps = sum(tenant.steps for tenant in tenants)
        self.results: dict[str, JobResult] = {}

    def job(self, tenant: Tenant) -> Process:
        """A process: a job from its arrival to its end."""
        yield self.env.timeout(tenant.arrival)
        self.arrivals.pop(0)
        admitted = self.env.event()
        self.queue.append((tenant, admitted))
        self._admit()
        running: RunningJob = yield admitted  # type: ignore[assignment]
        yield from self._skip_steady_state(running)
        while running.done < tenant.steps:
            yield from self._step(running)
            yield from self._skip_steady_state(running)
        self.results[tenant.name] = running.result(float(self.env.now))
        self._leave(running)

    def _step(self, running: RunningJob) -> Process:
        progress = self.progress.within(self._steps_done(), self.steps, "steps")
        running.run = JobRun(self.env, running.network, running.tenant.workload, progress)
        if self.steady_state:
            running.run.on_idle = lambda: self.env.process(self._skip_steady_state(running))
        yield running.run.start()
        record = running.run.finish()
        running.run = None
        record.bytes_by_kind = _bytes_by_kind(record)
        running.end_step(record)

    def _skip_steady_state(self, running: RunningJob) -> Process:
        """Skip time whose outcome is known: between two steps, or in a step while no collective is in progress."""
        if not self.steady_state:
            return
        yield _EndOfInstant(self.env)
        group = self._group_of(running)
        now = self.env.now
        if group.held_until > now:  # another job of the group has begun the hold at this very instant
            yield self.env.timeout(group.held_until - now)
            return
        group.observe(now, self._horizon())
        if group.held_until > now:
            group.hold(True)
            yield self.env.timeout(group.held_until - now)
            group.hold(False)

    def _horizon(self) -> float:
        """No job starts before this time [s]. The first in the queue waits for another to end; else one must arrive."""
        if self.queue:
            return min(group.no_end_before for group in self.groups)
        return self.arrivals[0] if self.arrivals else math.inf

    def _admit(self) -> None:
        """Start jobs from the head of the queue while there are GPUs for them."""
        while self.queue:
            tenant, admitted = self.queue[0]
            gpus = self._place(tenant)
            if gpus is None:
                return
            self.queue.popleft()
            self.free[gpus] = False
            running = self._start(tenant, gpus)
            sharing = [group for group in self.groups if any((m.used & running.used).any() for m in group.members)]
            self.groups = [group for group in self.groups if group not in sharing]
            self.groups += interference_groups([*(m for group in sharing for m in group.members), running])
            admitted.succeed(running)

    def _leave(self, running: RunningJob) -> None:
        group = self._group_of(running)
        self.groups.remove(group)
        self.groups += interference_groups(member for member in group.members if member is not running)
        self.free[running.gpus] = True
        self._admit()

    def _group_of(self, running: RunningJob) -> InterferenceGroup[RunningJob]:
        return next(group for group in self.groups if running in group.members)

    def _place(self, tenant: Tenant) -> Ints | None:
        """The GPUs for a job; None where too few are free."""
        cluster = self.routed.cluster
        n = tenant.workload.n_ranks
        if isinstance(tenant.placement, str):
            return place(cluster, np.flatnonzero(self.free), n, tenant.placement, tenant.seed)
        gpus = gpu_of_each_rank(cluster, n, tenant.placement)
        return gpus if self.free[gpus].all() else None

    def _start(self, tenant: Tenant, gpus: Ints) -> RunningJob:
        """Put a job on its GPUs. A step alone there, run first, gives its step time and the links that it uses."""
        workload = tenant.workload
        env = simpy.Environment()
        progress = self.progress.within(self._steps_done(), self.steps, "steps")
        idle_fabric = FlowFabric(env, self.routed.cluster, self.routed.folding, progress)
        network = FluidNetwork(idle_fabric, self.routed, workload.groups, self.algorithms, gpus_of_ranks=gpus)
        run = JobRun(env, network, workload, progress)
        try:
            env.run(until=run.start())
        except RuntimeError as stuck:
            raise DeadlockError(f"job {tenant.name}: deadlock: {run.rendezvous.missing()}") from stuck
        network.fabric = self.fabric  # shared with the other jobs from now on
        return RunningJob(
            tenant=tenant,
            gpus=gpus,
            network=network,
            alone_s=float(env.now),
            used=network.used,
            start=float(self.env.now),
        )

    def _steps_done(self) -> int:
        running = sum(member.done for group in self.groups for member in group.members)
        return running + sum(result.steps for result in self.results.values())


def _bytes_by_kind(record: Record) -> dict[str, float]:
    """Bytes of each link class: the sum over the collectives of a step."""
    total: dict[str, float] = {}
    for carried in {(span.group, span.name): span.carried for span in record.spans}.values():
        for kind, size in carried.items():
            total[kind] = total.get(kind, 0.0) + size
    return total


@one_blas_thread
def simulate_tenants(
    routed: RouteCache,
    tenants: Sequence[Tenant],
    algorithms: Mapping[Collective, str] | None = None,
    progress: Progress | None = None,
    steady_state: bool = True,
) -> list[JobResult]:
    """Run jobs on one cluster. Returns their results in the order given.

    `steady_state=False` simulates every step, for tests. Raises UsageError for names that are not unique, CapacityError
    for a job that the cluster could never hold, DeadlockError when ranks of a job wait for each other, OutOfTime.
    """
    names = [tenant.name for tenant in tenants]
    for tenant in tenants:
        if names.count(tenant.name) > 1:
            raise UsageError(f"two jobs are called {tenant.name!r}; give each job its own name")
        gpus = None if isinstance(tenant.placement, str) else tenant.placement
        gpu_of_each_rank(routed.cluster, tenant.workload.n_ranks, gpus)  # raises where the job can never start
    scheduler = _Scheduler(routed, tenants, algorithms, progress or Progress(), steady_state)
    jobs = [scheduler.env.process(scheduler.job(tenant)) for tenant in tenants]
    try:
        scheduler.env.run(until=simpy.AllOf(scheduler.env, jobs))
    except OutOfTime as cut:
        jobs_so_far = {"jobs_done": len(scheduler.results), "jobs": len(tenants)}
        raise OutOfTime(cut.line, cut.so_far | jobs_so_far | {"simulated_s": float(scheduler.env.now)}) from None
    return [scheduler.results[name] for name in names]
