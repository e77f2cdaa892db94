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
from dessim.sim.collective import Collectives, Routed
from dessim.sim.engine import Process, Run
from dessim.sim.maxmin import Ints
from dessim.sim.network import Network
from dessim.sim.recorder import Record
from dessim.sim.repetition import Circle, circles
from dessim.sim.stay import Running, Stay, Tenant
from dessim.sim.watch import Watch
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
        routed: Routed,
        tenants: Sequence[Tenant],
        algorithms: Mapping[Collective, str] | None,
        watch: Watch,
        repetition: bool,
    ) -> None:
        self.env, self.routed, self.algorithms, self.watch = simpy.Environment(), routed, algorithms, watch
        self.network = Network(self.env, routed.cluster, routed.folding, watch)
        self.tenants, self.repetition = tenants, repetition
        self.free = np.ones(routed.cluster.n_gpus, dtype=bool)
        self.queue: deque[tuple[Tenant, simpy.Event]] = deque()
        self.coming = sorted(tenant.arrival for tenant in tenants)
        self.circles: list[Circle[Running]] = []
        self.steps = sum(tenant.steps for tenant in tenants)
        self.stays: dict[str, Stay] = {}

    def job(self, tenant: Tenant) -> Process:
        """A process: a job from its arrival to its end."""
        yield self.env.timeout(tenant.arrival)
        self.coming.pop(0)
        turn = self.env.event()
        self.queue.append((tenant, turn))
        self._admit()
        running: Running = yield turn  # type: ignore[assignment]
        yield from self._pause(running)
        while running.done < tenant.steps:
            yield from self._step(running)
            yield from self._pause(running)
        self.stays[tenant.name] = running.stay(float(self.env.now))
        self._leave(running)

    def _step(self, running: Running) -> Process:
        watch = self.watch.within(self._done(), self.steps, "steps")
        running.run = Run(self.env, self.network, running.collectives, running.tenant.workload, watch)
        if self.repetition:
            running.run.paused = lambda: self.env.process(self._pause(running))
        yield running.run.start()
        record, running.run = running.run.finish(), None
        record.bytes_by_kind = _carried(record)
        running.keep(record)

    def _pause(self, running: Running) -> Process:
        """Between two steps, or in one where nobody communicates: time passes only if what happens in it is known."""
        if not self.repetition:
            return
        yield _Settled(self.env)
        circle, now = self._circle(running), self.env.now
        if circle.until > now:  # by another of the circle, at this very instant
            yield self.env.timeout(circle.until - now)
            return
        circle.look(now, self._horizon())
        if circle.until > now:
            circle.hold(True)
            yield self.env.timeout(circle.until - now)
            circle.hold(False)

    def _horizon(self) -> float:
        """No job starts before that: the first in the queue needs one to end, else somebody has to come."""
        if self.queue:
            return min(circle.safe for circle in self.circles)
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
            met = [c for c in self.circles if any((m.used & running.used).any() for m in c.members)]
            self.circles = [c for c in self.circles if c not in met]
            self.circles += circles([*(m for c in met for m in c.members), running])
            turn.succeed(running)

    def _leave(self, running: Running) -> None:
        circle = self._circle(running)
        self.circles.remove(circle)
        self.circles += circles(member for member in circle.members if member is not running)
        self.free[running.gpus] = True
        self._admit()

    def _circle(self, running: Running) -> Circle[Running]:
        return next(circle for circle in self.circles if running in circle.members)

    def _place(self, tenant: Tenant) -> Ints | None:
        cluster, n = self.routed.cluster, tenant.workload.n_ranks
        if isinstance(tenant.placement, str):
            return place(cluster, np.flatnonzero(self.free), n, tenant.placement, tenant.seed)
        gpus = seated(cluster, n, tenant.placement)
        return gpus if self.free[gpus].all() else None

    def _settle(self, tenant: Tenant, gpus: Ints) -> Running:
        """A job on its GPUs; and how it would fare there alone."""
        routed, workload, env = self.routed, tenant.workload, simpy.Environment()
        collectives = Collectives(routed, workload.groups, self.algorithms, seats=gpus)
        watch = self.watch.within(self._done(), self.steps, "steps")
        run = Run(env, Network(env, routed.cluster, routed.folding, watch), collectives, workload, watch)
        try:
            env.run(until=run.start())
        except RuntimeError as stuck:
            raise DeadlockError(f"job {tenant.name}: deadlock: {run.meetings.missing()}") from stuck
        return Running(tenant, gpus, collectives, float(env.now), collectives.used, float(self.env.now))

    def _done(self) -> int:
        running = sum(member.done for circle in self.circles for member in circle.members)
        return running + sum(stay.steps for stay in self.stays.values())


def _carried(record: Record) -> dict[str, float]:
    """Bytes of each link class, by adding up the collectives."""
    total: dict[str, float] = {}
    for carried in {(span.group, span.name): span.carried for span in record.spans}.values():
        for kind, size in carried.items():
            total[kind] = total.get(kind, 0.0) + size
    return total


def simulate_tenants(
    routed: Routed,
    tenants: Sequence[Tenant],
    algorithms: Mapping[Collective, str] | None = None,
    watch: Watch | None = None,
    repetition: bool = True,
) -> list[Stay]:
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
    room = _Room(routed, tenants, algorithms, watch or Watch(), repetition)
    jobs = [room.env.process(room.job(tenant)) for tenant in tenants]
    try:
        room.env.run(until=simpy.AllOf(room.env, jobs))
    except OutOfTime as cut:
        over = {"jobs_done": len(room.stays), "jobs": len(tenants), "simulated_s": float(room.env.now)}
        raise OutOfTime(cut.line, cut.so_far | over) from None
    return [room.stays[name] for name in names]
