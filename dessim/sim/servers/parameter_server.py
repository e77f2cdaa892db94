"""Parameter servers: workers pull rows and push gradients; servers queue requests, gather rows and apply updates.

    result = serve(cluster, workers, servers, traffic, compute, consistency, busiest=busiest)

A worker is a process that repeats its step: it prepares its batch, pulls (ids to every server, rows back), computes,
and pushes (gradients to every server, which applies them and acknowledges). Keys are spread by hash (Li et al.,
"Scaling distributed machine learning with the parameter server", OSDI 2014). Every server gets an equal share of each
message, except one: the server with the most frequent keys, server 0 by convention, gets `busiest`. A server is a queue
with k threads that takes requests in order of arrival; ps-lite, by the same authors, has one thread (src/customer.cc:
the thread that receives also serves). Messages are flows on the fabric, where many workers share a server's NIC and
many servers share a worker's.

When may a worker begin its next step?
    sync       when the pushes of all workers have arrived and have been applied as one update (bulk synchronous)
    async      when its own push has been applied (Dean et al., "Large scale distributed deep networks", NIPS 2012)
    bounded    like async, and while it is at most `staleness` steps ahead of the slowest worker (Ho et al., "More
               effective distributed ML via a stale synchronous parallel parameter server", NIPS 2013)

Staleness is counted in versions: how many updates of others a server applied between a worker's pull and its push.

Left out: overlap within a worker (prefetch, computing while it sends), caches in workers, replication, and the time
until a worker learns of the progress of others.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

import numpy as np
import simpy

from dessim.arrays import significant
from dessim.cluster import Cluster
from dessim.cluster.links import IntArray
from dessim.sim.core.blas import one_blas_thread
from dessim.sim.core.bounds import COMPUTE, LATE, LATENCY, QUEUE, SERVICE, Parts, add_parts
from dessim.sim.core.recorder import Record, Span
from dessim.sim.fluid.fabric import FlowFabric
from dessim.sim.fluid.flows import Flows
from dessim.sim.progress import Progress
from dessim.sim.servers.folded_routes import open_channels
from dessim.sim.servers.traffic import DIGITS, Call, Consistency, ServersResult, StepTraffic
from dessim.trace.schema import Kind, Phase
from dessim.workload.dag import Task

WARM_UP_STEPS = 2
"""Steps per worker before an asynchronous run is measured."""
MEASURED_STEPS = 8
"""The least number of steps per worker that are measured, where steps differ."""
MEASURED_IN_TOTAL = 1024
"""The least number of steps of all workers together: steps that are cut off at either end must not matter."""

Process = Generator[simpy.Event, object, None]
_CallOutcome = tuple[float, dict[str, float], int]  # end [s], parts, version of the server


class _Server:
    """A class of identical servers: one queue, its threads, and the number of updates applied (`version`)."""

    def __init__(self, env: simpy.Environment, threads: int) -> None:
        self._env = env
        self._threads = simpy.Resource(env, threads)
        self.version = 0
        self.merged = 0  # pushes of the current synchronous step
        self.busy: list[tuple[float, float]] = []

    def work(self, seconds: float) -> Generator[simpy.Event, object, tuple[float, int]]:
        """A process: one request, from its arrival. Returns its seconds in the queue, and the version that it finds."""
        arrived = self._env.now
        with self._threads.request() as thread:
            yield thread
            began = self._env.now
            version = self.version
            yield self._env.timeout(seconds)
            self.busy.append((began, self._env.now))
        return began - arrived, version


class _Job:
    """All workers, their servers, and the fabric between them."""

    def __init__(
        self,
        cluster: Cluster,
        workers: IntArray,
        servers: IntArray,
        *,
        traffic: StepTraffic,
        compute: Sequence[float],
        consistency: Consistency,
        busiest: StepTraffic | None,
        measured: int,
        folding: bool,
        progress: Progress,
    ) -> None:
        self.env = simpy.Environment()
        self.n = len(workers)
        self.compute = compute
        self.consistency = consistency
        self.progress = progress
        self.channels = open_channels(cluster, workers, servers, folding, first_apart=busiest is not None)
        self.traffic = [busiest or traffic] + [traffic] * (len(self.channels.sizes) - 1)  # by server class
        self.fabric = FlowFabric(self.env, self.channels.cluster, folding, progress)
        self.servers = [_Server(self.env, consistency.threads) for _ in self.channels.sizes]
        # A synchronous run needs no warm-up: its first step is like all others.
        self.first_measured = 0 if consistency.sync else WARM_UP_STEPS * self.n
        self.last_measured = self.first_measured + measured * self.n
        self.clock = [0] * self.n  # steps done, per worker
        self.steps = 0
        self.lead = 0
        self.start = 0.0
        self.end = float("inf")
        self.worker_advanced = self.env.event()
        self.step_applied = self.env.event()
        self.staleness: list[tuple[int, int]] = []  # server class, versions
        self.versions: list[tuple[int, int]] = []  # of server 0, at the pull and the push of each step
        self.record = Record(self.n, tuple((worker,) for worker in range(self.n)))

    @property
    def done(self) -> bool:
        """Whether all measured steps have ended."""
        return self.steps >= self.last_measured

    def worker(self, w: int, rng: np.random.Generator) -> Process:
        """A process: worker w makes steps until enough have been measured."""
        consistency = self.consistency
        while True:
            yield from self._wait_for_slower_workers(w)
            if self.done or (consistency.sync and self.clock[w] == self.last_measured // self.n):
                return
            self.lead = max(self.lead, self.clock[w] - min(self.clock))
            factor = _jitter_factor(consistency.jitter, rng) if consistency.jitter else 1.0
            yield from self._compute(w, "prepare", Phase.INPUT, self.compute[0] * factor)
            pulled = yield from self._call(w, "pull", [t.pull for t in self.traffic])
            yield from self._compute(w, "compute", Phase.FORWARD, self.compute[1] * factor)
            pushed = yield from self._call(w, "push", [t.pushing for t in self.traffic])
            if consistency.sync:
                yield from self._barrier(w)
            self.versions.append((pulled[0], pushed[0]))
            self._end_step(w, [after - before for before, after in zip(pulled, pushed, strict=True)])

    def result(self) -> ServersResult:
        """The measured part of the run."""
        record = self.record
        sizes = self.channels.sizes
        window = self.end - self.start
        total = self.fabric.counters.bytes_by_kind.tolist()
        record.end = self.end
        record.solves = self.fabric.counters.solves
        record.bytes_by_kind = dict(zip(self.channels.cluster.links.kinds, total, strict=True))
        busy_s = sum(
            size * max(min(end, self.end) - max(start, self.start), 0.0)
            for server, size in zip(self.servers, sizes, strict=True)
            for start, end in server.busy
        )
        classes, versions = np.array(self.staleness, dtype=np.int64).reshape(-1, 2).T
        return ServersResult(
            record=record,
            start=self.start,
            end=self.end,
            steps=self.last_measured - self.first_measured,
            staleness=np.repeat(versions, np.array(sizes)[classes]),
            versions=np.array(sorted(self.versions, key=lambda step: step[1]), dtype=np.int64).reshape(-1, 2),
            lead=self.lead,
            busy=busy_s / (window * self.consistency.threads * sum(sizes)),
            # All steps move the same bytes, so steps outside the measured window may count too.
            bytes_by_link={k: size * self.n / self.steps for k, size in record.bytes_by_kind.items() if size > 0},
        )

    def _wait_for_slower_workers(self, w: int) -> Process:
        """Wait while worker w is too far ahead of the slowest."""
        bound = self.consistency.staleness
        began = self.env.now
        while bound is not None and not self.done and self.clock[w] - min(self.clock) > bound:
            yield self.worker_advanced
        self._note(w, "staleness bound", Phase.INPUT, kind=Kind.P2P, start=began, parts={LATE: self.env.now - began})

    def _compute(self, w: int, name: str, phase: Phase, seconds: float) -> Process:
        began = self.env.now
        yield self.env.timeout(seconds)
        self._note(w, name, phase, kind=Kind.COMPUTE, start=began, parts={COMPUTE: self.env.now - began})

    def _call(self, w: int, name: str, calls_of: Sequence[Call]) -> Generator[simpy.Event, object, list[int]]:
        """A message to every server, its service, and the reply, by server class. Returns the version of each class."""
        began = self.env.now
        calls = [self.env.process(self._call_class(w, d, call)) for d, call in enumerate(calls_of)]
        yield simpy.AllOf(self.env, calls)
        outcomes: list[_CallOutcome] = [call.value for call in calls]  # type: ignore[misc]
        last = max(outcomes, key=lambda outcome: outcome[0])
        phase = Phase.FORWARD if calls_of[0].reply else Phase.BACKWARD
        moved = sum(size * call.moved for size, call in zip(self.channels.sizes, calls_of, strict=True))
        self._note(w, name, phase, kind=Kind.P2P, start=began, parts=last[1], size=moved)
        return [version for _, _, version in outcomes]

    def _call_class(self, w: int, d: int, call: Call) -> Generator[simpy.Event, object, _CallOutcome]:
        """The part of a call that goes to server class d.

        Returns its end [s], its seconds per bottleneck, and the server's version: the one that a pull reads, or the one
        that a push is applied to.
        """
        server = self.servers[d]
        parts = dict[str, float]()
        yield from self._message(self.channels.up[w][d], call.size, parts)
        queued, version = yield from server.work(call.service)
        add_parts(parts, {QUEUE: queued, SERVICE: call.service})
        if not call.reply:
            version = server.version
            if not self.consistency.sync:
                server.version += 1
            else:
                server.merged += 1
                if server.merged == self.n:
                    self.env.process(self._apply(server, self.traffic[d].apply))
        if call.reply or not self.consistency.sync:
            # A synchronous push needs no acknowledgement: the barrier follows.
            yield from self._message(self.channels.down[w][d], call.reply, parts)
        return float(self.env.now), parts, version

    def _message(self, flows: Flows, size: float, parts: dict[str, float]) -> Process:
        """A message in flight; an empty one, an acknowledgement, takes its latency."""
        if size:
            took: Parts = yield self.fabric.transfer(flows, size)  # type: ignore[assignment]
        else:
            took = {LATENCY: float(flows.fixed[0])}
            yield self.env.timeout(took[LATENCY])
        add_parts(parts, took)

    def _apply(self, server: _Server, seconds: float) -> Process:
        """The update of a synchronous step, after all pushes."""
        yield from server.work(seconds)
        server.version += 1
        server.merged = 0
        if all(other.version == server.version for other in self.servers):
            applied = self.step_applied
            self.step_applied = self.env.event()
            applied.succeed()

    def _barrier(self, w: int) -> Process:
        """Wait until every server has applied the step, and for the message that says so."""
        began = self.env.now
        yield self.step_applied
        notice = max(float(flows.fixed[0]) for flows in self.channels.down[w])
        yield self.env.timeout(notice)
        parts = {LATE: self.env.now - began - notice, LATENCY: notice}
        self._note(w, "barrier", Phase.OPTIMIZER, kind=Kind.P2P, start=began, parts=parts)

    def _end_step(self, w: int, staleness: list[int]) -> None:
        """Worker w has made a step; `staleness` is in versions, per server class."""
        self.clock[w] += 1
        if not self.done and self.steps >= self.first_measured:
            self.staleness += enumerate(staleness)
        self.steps += 1
        if self.steps == self.first_measured:
            self.start = self.env.now
        if self.steps == self.last_measured:
            self.end = self.env.now
        advanced = self.worker_advanced
        self.worker_advanced = self.env.event()
        advanced.succeed()
        self.progress.tick(min(self.steps, self.last_measured), self.last_measured, "worker_steps")

    def _note(
        self, w: int, name: str, phase: Phase, *, kind: Kind, start: float, parts: Parts, size: float = 0.0
    ) -> None:
        """Record an op that has just ended, unless it took no time."""
        if self.env.now > start:
            stream = "compute" if kind is Kind.COMPUTE else "comm"
            task = Task(name, self.clock[w], phase, kind, stream, size=size)
            self.record.spans.append(Span(w, task, start, moving_since=start, end=self.env.now, parts=parts))


def _jitter_factor(sigma: float, rng: np.random.Generator) -> float:
    """A lognormal factor with median 1. Nine decimals, since the last bits of an exponential depend on the processor,
    and the order in which requests arrive may depend on them."""
    return round(math.exp(sigma * rng.standard_normal()), 9)


@one_blas_thread
def serve(
    cluster: Cluster,
    workers: IntArray,
    servers: IntArray,
    *,
    traffic: StepTraffic,
    compute: Sequence[float],
    consistency: Consistency,
    busiest: StepTraffic | None = None,
    measured: int | None = None,
    folding: bool = True,
    progress: Progress | None = None,
) -> ServersResult:
    """Simulate `measured` steps per worker on average, after a warm-up where steps differ.

    `workers` and `servers` are attached to the fabric in place of the GPUs with these ids. `traffic` is that of every
    server; with `busiest`, server 0 has another. `compute` are the seconds that a worker computes before its pull and
    after it. By default one step is measured where all steps are equal (synchronous, no jitter), otherwise at least
    `MEASURED_STEPS`. Raises OutOfTime.
    """
    if measured is None:
        steps_are_equal = consistency.sync and not consistency.jitter
        measured = 1 if steps_are_equal else max(MEASURED_STEPS, -(-MEASURED_IN_TOTAL // len(workers)))
    job = _Job(
        cluster,
        workers,
        servers,
        traffic=traffic.rounded,
        compute=[significant(seconds, DIGITS) for seconds in compute],
        consistency=consistency,
        busiest=busiest.rounded if busiest else None,
        measured=measured,
        folding=folding,
        progress=progress or Progress(),
    )
    seeds = np.random.SeedSequence(consistency.seed).spawn(job.n)
    processes = [job.env.process(job.worker(w, np.random.default_rng(seed))) for w, seed in enumerate(seeds)]
    job.env.run(until=simpy.AllOf(job.env, processes))
    return job.result()
