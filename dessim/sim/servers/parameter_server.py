"""Parameter servers: workers pull rows and push gradients; servers queue, gather and update.

    outcome = serve(cluster, workers, servers, exchange, compute, consistency)

A worker is a process that goes round and round: it prepares its batch, pulls (ids to every server, rows back),
computes, and pushes (gradients to every server, which update and say so). Keys are spread by hash, so every server gets
an equal share of each message (Li et al., "Scaling distributed machine learning with the parameter server", OSDI 2014).
A server is a queue with k threads that takes requests in the order they arrive; ps-lite, by the same authors, has one
thread (src/customer.cc: whatever receives also serves). Messages are flows on the fabric, where many workers meet at a
server's NIC and many servers at a worker's.

When may a worker begin its next step?
    sync       when the pushes of all workers are in and have been applied, as one update (bulk synchronous)
    async      when its own push was applied (Dean et al., "Large scale distributed deep networks", NIPS 2012: Downpour)
    bounded    and it is no more than `staleness` steps ahead of the slowest (Ho et al., "More effective distributed ML
               via a stale synchronous parallel parameter server", NIPS 2013: SSP)

Staleness is counted, in versions: how many updates of others a server applied between a worker's pull and its push.

Left out: overlap within a worker (prefetch, computing while it sends), skew between servers, what a worker's caches
save, replication, and the way that the clocks of others take to whoever waits for them.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import simpy

from dessim.cluster import Cluster
from dessim.cluster.links import IntArray
from dessim.sim.core.blas import one_blas_thread
from dessim.sim.core.recorder import LATE, Record, Span
from dessim.sim.fluid.flows import LATENCY, Flows, Parts, add_parts
from dessim.sim.fluid.network import Network
from dessim.sim.progress import Progress
from dessim.sim.servers.folded_routes import open_channels
from dessim.sim.servers.traffic import QUEUE, SERVICE, Consistency, ServersResult, StepTraffic
from dessim.trace.schema import Kind, Phase

WARM_UP, MEASURED = 2, 8  # steps of a worker: until an asynchronous run is in its stride, and then looked at
IN_ALL = 1024  # steps to look at, of all workers together: what is under way at either end must not count for much

Steps = Generator[simpy.Event, object, None]
_Outcome = tuple[float, dict[str, float], int]


class _Server:
    """A class of like servers: a queue, threads, and how many updates it has applied."""

    def __init__(self, env: simpy.Environment, threads: int) -> None:
        self._env, self._threads = env, simpy.Resource(env, threads)
        self.version = self.merged = 0
        self.worked: list[tuple[float, float]] = []

    def work(self, seconds: float) -> Generator[simpy.Event, object, tuple[float, int]]:
        """A process: one request, from its arrival. Returns seconds in the queue, and the version it found."""
        came = self._env.now
        with self._threads.request() as turn:
            yield turn
            began, version = self._env.now, self.version
            yield self._env.timeout(seconds)
            self.worked.append((began, self._env.now))
        return began - came, version


class _Job:
    """All workers, their servers and the network between them."""

    def __init__(
        self,
        cluster: Cluster,
        workers: IntArray,
        servers: IntArray,
        exchange: StepTraffic,
        compute: Sequence[float],
        consistency: Consistency,
        measured: int,
        folding: bool,
        progress: Progress,
    ) -> None:
        self.env, self.n = simpy.Environment(), len(workers)
        self.exchange, self.compute, self.consistency, self.progress = exchange, compute, consistency, progress
        self.channels = open_channels(cluster, workers, servers, folding)
        self.network = Network(self.env, self.channels.cluster, folding, progress)
        self.servers = [_Server(self.env, consistency.threads) for _ in self.channels.sizes]
        self.first = 0 if consistency.sync else WARM_UP * self.n  # a synchronous step starts as the first does
        self.last = self.first + measured * self.n
        self.clock = [0] * self.n
        self.steps, self.lead, self.start, self.end = 0, 0, 0.0, float("inf")
        self.moved, self.applied = self.env.event(), self.env.event()
        self.staleness: list[tuple[int, int]] = []  # server class, versions
        self.record = Record(self.n, tuple((worker,) for worker in range(self.n)))

    @property
    def over(self) -> bool:
        return self.steps >= self.last

    def worker(self, w: int, rng: np.random.Generator) -> Steps:
        """A worker's life: steps until enough were seen."""
        consistency, exchange = self.consistency, self.exchange
        while True:
            yield from self.gate(w)
            if self.over or (consistency.sync and self.clock[w] == self.last // self.n):
                return
            self.lead = max(self.lead, self.clock[w] - min(self.clock))
            factor = float(np.exp(consistency.jitter * rng.standard_normal())) if consistency.jitter else 1.0
            yield from self.computing(w, "prepare", Phase.INPUT, self.compute[0] * factor)
            pulled = yield from self.call(w, "pull", exchange.request, exchange.gather, exchange.reply)
            yield from self.computing(w, "compute", Phase.FORWARD, self.compute[1] * factor)
            pushed = yield from self.call(w, "push", exchange.push, exchange.merge, 0.0)
            if consistency.sync:
                yield from self.barrier(w)
            self.tick(w, [after - before for before, after in zip(pulled, pushed, strict=True)])

    def gate(self, w: int) -> Steps:
        """Wait while others are too far behind."""
        bound, began = self.consistency.staleness, self.env.now
        while bound is not None and not self.over and self.clock[w] - min(self.clock) > bound:
            yield self.moved
        self.note(w, "staleness bound", Phase.INPUT, Kind.P2P, began, {LATE: self.env.now - began})

    def computing(self, w: int, name: str, phase: Phase, seconds: float) -> Steps:
        began = self.env.now
        yield self.env.timeout(seconds)
        self.note(w, name, phase, Kind.COMPUTE, began, {"compute": self.env.now - began})

    def call(
        self, w: int, name: str, size: float, service: float, reply: float
    ) -> Generator[simpy.Event, object, list[int]]:
        """A message to every server, its service, and the reply. Returns the version that each class had."""
        env, began = self.env, self.env.now
        calls = [env.process(self.one(w, d, size, service, reply)) for d in range(len(self.servers))]
        yield simpy.AllOf(env, calls)
        outcomes: list[_Outcome] = [call.value for call in calls]  # type: ignore[misc]
        last = max(outcomes, key=lambda outcome: outcome[0])
        phase = Phase.FORWARD if reply else Phase.BACKWARD
        self.note(w, name, phase, Kind.P2P, began, last[1], (size + reply) * sum(self.channels.sizes))
        return [version for _, _, version in outcomes]

    def one(
        self, w: int, d: int, size: float, service: float, reply: float
    ) -> Generator[simpy.Event, object, _Outcome]:
        """The part of a call that goes to server class d: when it was over, the seconds by what took them, and the
        version that the server had when it looked rows up, or when it applied a push."""
        server, parts = self.servers[d], dict[str, float]()
        yield from self.message(self.channels.up[w][d], size, parts)
        waited, version = yield from server.work(service)
        add_parts(parts, {QUEUE: waited, SERVICE: service})
        if not reply:
            version = server.version
            if not self.consistency.sync:
                server.version += 1
            else:
                server.merged += 1
                if server.merged == self.n:
                    self.env.process(self.apply(server))
        down = self.channels.down[w][d]
        if reply or not self.consistency.sync:
            yield from self.message(down, reply, parts)
        return float(self.env.now), parts, version

    def message(self, flows: Flows, size: float, parts: dict[str, float]) -> Steps:
        """A message on its way; an empty one, which says that something was done, takes its latency."""
        if size:
            took: Parts = yield self.network.transfer(flows, size)  # type: ignore[assignment]
        else:
            took = {LATENCY: float(flows.fixed[0])}
            yield self.env.timeout(took[LATENCY])
        add_parts(parts, took)

    def apply(self, server: _Server) -> Steps:
        """The update that all pushes of a step were for."""
        yield from server.work(self.exchange.apply)
        server.version, server.merged = server.version + 1, 0
        if all(other.version == server.version for other in self.servers):
            done, self.applied = self.applied, self.env.event()
            done.succeed()

    def barrier(self, w: int) -> Steps:
        """Wait until every server has applied the step, and for the word of it."""
        began = self.env.now
        yield self.applied
        word = max(float(flows.fixed[0]) for flows in self.channels.down[w])
        yield self.env.timeout(word)
        self.note(w, "barrier", Phase.OPTIMIZER, Kind.P2P, began, {LATE: self.env.now - began - word, LATENCY: word})

    def tick(self, w: int, staleness: list[int]) -> None:
        """A step of worker w is over."""
        self.clock[w] += 1
        if not self.over and self.steps >= self.first:
            self.staleness += enumerate(staleness)
        self.steps += 1
        if self.steps == self.first:
            self.start = self.env.now
        if self.steps == self.last:
            self.end = self.env.now
        moved, self.moved = self.moved, self.env.event()
        moved.succeed()
        self.progress.tick(min(self.steps, self.last), self.last, "worker_steps")

    def result(self) -> ServersResult:
        """How it went."""
        record, sizes, window = self.record, self.channels.sizes, self.end - self.start
        total = self.network.counters.bytes_by_kind.tolist()
        record.end, record.solves = self.end, self.network.solves
        record.bytes_by_kind = dict(zip(self.channels.cluster.links.kinds, total, strict=True))
        worked = sum(
            size * max(min(end, self.end) - max(start, self.start), 0.0)
            for server, size in zip(self.servers, sizes, strict=True)
            for start, end in server.worked
        )
        classes, versions = np.array(self.staleness, dtype=np.int64).reshape(-1, 2).T
        return ServersResult(
            record=record,
            start=self.start,
            end=self.end,
            steps=self.last - self.first,
            staleness=np.repeat(versions, np.array(sizes)[classes]),
            lead=self.lead,
            busy=worked / (window * self.consistency.threads * sum(sizes)),
            # Every step moves the same; those after the end count here, too.
            bytes_by_link={k: size * self.n / self.steps for k, size in record.bytes_by_kind.items() if size > 0},
        )

    def note(self, w: int, name: str, phase: Phase, kind: Kind, start: float, parts: Parts, size: float = 0.0) -> None:
        if self.env.now > start:
            stream = "compute" if kind is Kind.COMPUTE else "comm"
            self.record.spans.append(
                Span(w, name, self.clock[w], phase, kind, stream, start, start, self.env.now, size=size, parts=parts)
            )


@one_blas_thread
def serve(
    cluster: Cluster,
    workers: IntArray,
    servers: IntArray,
    exchange: StepTraffic,
    compute: Sequence[float],
    consistency: Consistency,
    measured: int | None = None,
    folding: bool = True,
    progress: Progress | None = None,
) -> ServersResult:
    """Train for `measured` steps of every worker, on the average, and a warm-up before where steps are not in step.

    `workers` and `servers` are the GPU ids in whose place each is attached to the fabric; `compute` are the seconds of
    a worker's step before its pull and after it. By default a synchronous run without jitter takes one step, since all
    are alike, every other `MEASURED` or more. Raises OutOfTime when `progress` says so.
    """
    if measured is None:
        measured = 1 if consistency.sync and not consistency.jitter else max(MEASURED, -(-IN_ALL // len(workers)))
    job = _Job(cluster, workers, servers, exchange, compute, consistency, measured, folding, progress or Progress())
    seeds = np.random.SeedSequence(consistency.seed).spawn(job.n)
    alive = [job.env.process(job.worker(w, np.random.default_rng(seed))) for w, seed in enumerate(seeds)]
    job.env.run(until=simpy.AllOf(job.env, alive))
    return job.result()
