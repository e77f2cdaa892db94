"""Several jobs on one fabric: they arrive, wait for GPUs, share links, and leave.

Jobs share one clock and one network; nothing else, for a GPU belongs to one job at a time. A job that finds no room
waits; jobs start in the order they came, so one that would fit does not overtake one that does not. Its GPUs are chosen
when it starts (dessim.cluster.placement) and kept to its end. It runs a number of equal steps, each of which begins
when all ranks have ended the one before, as in a projection of one step.

Left out: preemption, jobs that grow or shrink, and what a job does before its first step and after its last.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import simpy
from simpy.events import EventPriority

from dessim.cluster.placement import place, seated
from dessim.errors import DeadlockError, OutOfTime, UsageError
from dessim.sim.collective import Collectives, RouteCache
from dessim.sim.core.blas import one_blas_thread
from dessim.sim.core.recorder import Record
from dessim.sim.engine import JobRun, Process
from dessim.sim.fluid.maxmin import Ints
from dessim.sim.fluid.network import Network
from dessim.sim.jobs.job import JobResult, RunningJob, Tenant
from dessim.sim.jobs.steady_state import InterferenceGroup, interference_groups
from dessim.sim.progress import Progress
from dessim.trace.schema import Collective

_LAST = EventPriority(2)  # simpy's own are 0 and 1


class _Settled(simpy.Event):
    """Fires at this instant, after all else that happens in it."""

    def __init__(self, env: simpy.Environment) -> None:
        super().__init__(env)
        self._ok, self._value = True, None
        env.schedule(self, priority=_LAST)


class _Room:
    """The machine room: who has which GPUs, who waits, who may meet whom."""

    def __init__(
        self,
        routed: RouteCache,
        tenants: Sequence[Tenant],
        algorithms: Mapping[Collective, str] | None,
        progress: Progress,
        repetition: bool,
    ) -> None:
        self.env, self.routed, self.algorithms, self.progress = simpy.Environment(), routed, algorithms, progress
        self.network = Network(self.env, routed.cluster, routed.folding, progress)
        self.tenants, self.repetition = tenants, repetition
        self.free = np.ones(routed.cluster.n_gpus, dtype=bool)
        self.queue: deque[tuple[Tenant, simpy.Event]] = deque()
        self.coming = sorted(tenant.arrival for tenant in tenants)
        self.groups: list[InterferenceGroup[RunningJob]] = []
        self.steps = sum(tenant.steps for tenant in tenants)
        self.finished: dict[str, JobResult] = {}

    def job(self, tenant: Tenant) -> Process:
        """A process: a job from its arrival to its end."""
        yield self.env.timeout(tenant.arrival)
        self.coming.pop(0)
        turn = self.env.event()
        self.queue.append((tenant, turn))
        self._admit()
        running: RunningJob = yield turn  # type: ignore[assignment]
        yield from self._pause(running)
        while running.done < tenant.steps:
            yield from self._step(running)
            yield from self._pause(running)
        self.finished[tenant.name] = running.result(float(self.env.now))
        self._leave(running)

    def _step(self, running: RunningJob) -> Process:
        progress = self.progress.within(self._done(), self.steps, "steps")
        running.run = JobRun(self.env, self.network, running.collectives, running.tenant.workload, progress)
        if self.repetition:
            running.run.paused = lambda: self.env.process(self._pause(running))
        yield running.run.start()
        record, running.run = running.run.finish(), None
        record.bytes_by_kind = _carried(record)
        running.keep(record)

    def _pause(self, running: RunningJob) -> Process:
        """Between two steps, or in one where nobody communicates: time passes only if what happens in it is known."""
        if not self.repetition:
            return
        yield _Settled(self.env)
        group, now = self._group_of(running), self.env.now
        if group.until > now:  # by another of the group, at this very instant
            yield self.env.timeout(group.until - now)
            return
        group.look(now, self._horizon())
        if group.until > now:
            group.hold(True)
            yield self.env.timeout(group.until - now)
            group.hold(False)

    def _horizon(self) -> float:
        """No job starts before that: the first in the queue needs one to end, else somebody has to come."""
        if self.queue:
            return min(group.safe for group in self.groups)
        return self.coming[0] if self.coming else math.inf

    def _admit(self) -> None:
        while self.queue:
            tenant, turn = self.queue[0]
            gpus = self._place(tenant)
            if gpus is None:
                return
            self.queue.popleft()
            self.free[gpus] = False
            running = self._settle(tenant, gpus)
            met = [c for c in self.groups if any((m.used & running.used).any() for m in c.members)]
            self.groups = [c for c in self.groups if c not in met]
            self.groups += interference_groups([*(m for c in met for m in c.members), running])
            turn.succeed(running)

    def _leave(self, running: RunningJob) -> None:
        group = self._group_of(running)
        self.groups.remove(group)
        self.groups += interference_groups(member for member in group.members if member is not running)
        self.free[running.gpus] = True
        self._admit()

    def _group_of(self, running: RunningJob) -> InterferenceGroup[RunningJob]:
        return next(group for group in self.groups if running in group.members)

    def _place(self, tenant: Tenant) -> Ints | None:
        cluster, n = self.routed.cluster, tenant.workload.n_ranks
        if isinstance(tenant.placement, str):
            return place(cluster, np.flatnonzero(self.free), n, tenant.placement, tenant.seed)
        gpus = seated(cluster, n, tenant.placement)
        return gpus if self.free[gpus].all() else None

    def _settle(self, tenant: Tenant, gpus: Ints) -> RunningJob:
        """A job on its GPUs; and how it would fare there alone."""
        routed, workload, env = self.routed, tenant.workload, simpy.Environment()
        collectives = Collectives(routed, workload.groups, self.algorithms, seats=gpus)
        progress = self.progress.within(self._done(), self.steps, "steps")
        run = JobRun(env, Network(env, routed.cluster, routed.folding, progress), collectives, workload, progress)
        try:
            env.run(until=run.start())
        except RuntimeError as stuck:
            raise DeadlockError(f"job {tenant.name}: deadlock: {run.rendezvous.missing()}") from stuck
        return RunningJob(tenant, gpus, collectives, float(env.now), collectives.used, float(self.env.now))

    def _done(self) -> int:
        running = sum(member.done for group in self.groups for member in group.members)
        return running + sum(stay.steps for stay in self.finished.values())


def _carried(record: Record) -> dict[str, float]:
    """Bytes of each link class, by adding up the collectives."""
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
    repetition: bool = True,
) -> list[JobResult]:
    """How each job fares on a cluster, in the order given. `repetition=False` simulates every step.

    Raises UsageError for names that are not unique, CapacityError for a job the cluster could never hold,
    DeadlockError when ranks of a job wait for each other, OutOfTime.
    """
    names = [tenant.name for tenant in tenants]
    for tenant in tenants:
        if names.count(tenant.name) > 1:
            raise UsageError(f"two jobs are called {tenant.name!r}; give each a name of its own")
        gpus = None if isinstance(tenant.placement, str) else tenant.placement
        seated(routed.cluster, tenant.workload.n_ranks, gpus)
    room = _Room(routed, tenants, algorithms, progress or Progress(), repetition)
    jobs = [room.env.process(room.job(tenant)) for tenant in tenants]
    try:
        room.env.run(until=simpy.AllOf(room.env, jobs))
    except OutOfTime as cut:
        over = {"jobs_done": len(room.finished), "jobs": len(tenants), "simulated_s": float(room.env.now)}
        raise OutOfTime(cut.line, cut.so_far | over) from None
    return [room.finished[name] for name in names]
