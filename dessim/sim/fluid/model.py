"""The fluid network model: a collective runs for all its ranks together, stage by stage, at max-min fair rates.

When the last rank has arrived, the model chooses an algorithm and routes its stages, and the fabric drains them one
after the other. Ranks that arrive early wait for the last one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np
import simpy

from dessim.arrays import Floats, Ints
from dessim.cluster import Cluster, Gpu
from dessim.cluster.tree_routes import sums_in_fabric, sums_in_node
from dessim.collectives import Layout, Options, Stage, schedule
from dessim.collectives.alltoall import excess
from dessim.collectives.gloo import NAME as GLOO
from dessim.errors import SimulationError
from dessim.sim.collective import CollectiveObserver, Outcome, RankPlacement
from dessim.sim.core.bounds import LATENCY, Parts, add_parts
from dessim.sim.core.counters import Counters
from dessim.sim.core.recorder import Record
from dessim.sim.fluid.buckets import Buckets
from dessim.sim.fluid.fabric import FlowFabric
from dessim.sim.fluid.flows import Flows, crossed_bytes, route_messages
from dessim.sim.fluid.incidence import incidence
from dessim.sim.fluid.nccl_calls import Call, NcclCalls
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sim.fluid.tuner import AUTO, Tuner, Wanted
from dessim.sim.progress import Progress
from dessim.sim.rendezvous import Rendezvous
from dessim.trace.schema import Collective
from dessim.workload.dag import Loads, Task

DIRECT = "direct"
"""The algorithm of an all_to_all in which some members send nothing."""
NO_ALGORITHM = "none"
"""The algorithm of a collective that moves nothing: a barrier, a group of one rank, or no bytes."""


@dataclass(frozen=True, slots=True)
class _RoutedStage:
    """A stage on this cluster, which repeats `repeat` times. The sizes of `flows` are multiplied by `scale` [bytes].

    `burst` [link classes] are bytes that have passed in a burst and are not in `flows` any more.
    """

    flows: Flows
    scale: float
    repeat: int
    burst: Floats | None = None


class FluidNetwork:
    """The collectives of one job on `fabric`; rank r is on GPU `gpus_of_ranks[r]`, or on GPU r.

    `algorithms` fixes the algorithm of an op (default "auto": the fastest on an idle network); `options` sets what
    algorithms leave open. Statistics so far: `solves`, how often rates were solved while routing; `flow_colours` and
    `link_colours`, the most that a stage folded to; `error`, the largest relative error that a tolerance admitted;
    `used` [n_links], the links that carried something.
    """

    threads_per_stream = 0

    def __init__(
        self,
        fabric: FlowFabric,
        route_cache: RouteCache,
        groups: Mapping[str, Sequence[int]],
        algorithms: Mapping[Collective, str] | None = None,
        options: Options | None = None,
        gpus_of_ranks: Ints | None = None,
    ) -> None:
        self.fabric = fabric
        self.cluster: Cluster = route_cache.cluster
        self._as_built = route_cache
        self._now = route_cache  # of the cluster with its current faults
        self._placement = RankPlacement(self.cluster, groups, gpus_of_ranks)
        self._layouts = {name: layout_of(self.cluster, gpus) for name, gpus in self._placement.gpus.items()}
        self._algorithms = dict(algorithms or {})
        self._options = options
        self._nccl = NcclCalls(self.cluster, self._placement.gpus, options or Options(), route_cache.nccl)
        self._tuner = Tuner(route_cache, self._placement.gpus, self._layouts, options)
        self._buckets = Buckets(self.cluster)
        self.solves = 0
        self.flow_colours = 0
        self.link_colours = 0
        self.error = 0.0
        self.used = np.zeros(len(self.cluster.links), dtype=bool)

    @property
    def counters(self) -> Counters:
        return self.fabric.counters

    def gpu_of(self, rank: int) -> Gpu:
        """The device that a rank computes on."""
        return self._placement.gpu_of(rank)

    def join(self, rendezvous: Rendezvous, task: Task, job: CollectiveObserver) -> simpy.Event:
        """Start the collective if the last rank has arrived. The event fires for all ranks together."""
        if rendezvous.complete:
            self.fabric.env.process(self._collective(rendezvous, job))
        return rendezvous.over

    def note(self, record: Record) -> None:
        """Write the statistics of this job into `record`."""
        record.solves = self.solves
        record.flow_colours = self.flow_colours
        record.link_colours = self.link_colours
        record.error = self.error

    def reroute(self, cluster: Cluster) -> None:
        """Route stages that begin from now on over `cluster`, another state of the cluster as built."""
        self._now = self._as_built.on(cluster)

    def run(
        self,
        op: Collective,
        group: str,
        size: float,
        splits: Mapping[int, tuple[float, ...]] | None,
        progress: Progress,
        loads: Loads | None = None,
    ) -> Generator[simpy.Event, Parts, Outcome]:
        """A process: from the arrival of the last rank until the last message has arrived.

        `size` is S in bytes. For an uneven all_to_all, `splits` gives the bytes for each member by the sender's place
        in the group. `loads` are the totals of members whose totals differ. Raises OutOfTime, and SimulationError where
        splits do not fit the group, a message has no route for too long, or the collective takes no time.
        """
        env = self.fabric.env
        transport = self.cluster.transport
        moving_since = env.now
        n = len(self._placement.gpus[group])
        if n < 2 or op is Collective.BARRIER:
            # A barrier's few bytes are not modelled.
            return Outcome(NO_ALGORITHM, moving_since, {LATENCY: 0.0})
        if loads is not None and GLOO in transport.algorithms.get(op, ()):
            splits = {member: loads.sent_by(member) for member in range(n)}
            loads = None
        sizes = _matrix(group, n, splits)
        if loads is not None:
            size = min(loads.totals)
        has_even_part = sizes is not None or size > 0
        if not has_even_part and (loads is None or not any(loads.totals)):
            return Outcome(NO_ALGORITHM, moving_since, {LATENCY: 0.0})
        asked = self._algorithms.get(op, AUTO)
        call: Call | None = None
        if self._nccl.runs(asked):
            largest = max(loads.totals) if loads is not None else size
            call = self._nccl.call(op, asked, group, largest, sizes)
        algorithm = DIRECT
        options = self._options
        nccl_stage = call.stage if call is not None else None
        if call is not None and op is Collective.ALL_TO_ALL and has_even_part and sizes is None:
            nccl_stage = self._nccl.all_pairs(group, size)
        if has_even_part and nccl_stage is None:
            wanted = Wanted(op, group, size, sizes, AUTO if call is not None else asked, bytes_only=call is not None)
            choices = self._tuner.choices(wanted)
            algorithm, options = self._tuner.choose(wanted, choices, progress.within(0, 2))
            progress = progress.within(1, 2) if len(choices) > 1 else progress
        parts: dict[str, float] = {}
        if transport.op_overhead > 0 and call is None:
            yield env.timeout(transport.op_overhead)
            parts[LATENCY] = transport.op_overhead
        even: Iterable[_RoutedStage] = ()
        if nccl_stage is not None:
            even = self._routed(group, nccl_stage, progress)
        elif has_even_part:
            even = self._stages(op, algorithm, options, group=group, size=size, sizes=sizes, progress=progress)
        more = self._excess(group, loads, progress) if loads is not None else ()
        stages: Iterable[_RoutedStage] = chain(even, more)
        last, carried = yield from self._transfer(stages if call is None else map(_without_latency, stages), parts)
        if call is not None:
            algorithm = call.name
            waiting = max(call.end(env.now - moving_since) - (env.now - moving_since), 0.0)
            yield env.timeout(waiting)
            add_parts(parts, {LATENCY: waiting})
        if transport.host_overhead > 0 and last is not None:
            # Ranks that end at the same instant wake one after the other. Each stage already includes the wait of the
            # average rank; the collective ends when the last rank has woken.
            waking = max(last.simultaneous_ranks() * transport.host_overhead - last.waking, 0.0)
            yield env.timeout(waking)
            add_parts(parts, {LATENCY: waking})
        if env.now <= moving_since:
            raise SimulationError(f"{op} of {size:g} B over {group!r} took no time; a link or overhead must cost some")
        return Outcome(algorithm, moving_since, parts, carried)

    def _transfer(
        self, stages: Iterable[_RoutedStage], parts: dict[str, float]
    ) -> Generator[simpy.Event, Parts, tuple[Flows | None, Floats]]:
        """A process: drain one stage after the other, and add its seconds per bottleneck to `parts`.

        Returns the flows of the last stage, if there is one, and the bytes carried by each link class [link classes].
        """
        last: Flows | None = None
        carried = np.zeros(len(self.cluster.links.kinds))
        for stage in stages:
            self._count(stage)
            carried += stage.flows.bytes_by_kind * (stage.scale * stage.repeat)
            began = self.fabric.env.now
            last = stage.flows
            took = yield self.fabric.transfer(stage.flows, stage.scale, stage.repeat)
            add_parts(parts, took)
            if stage.burst is not None:
                self.counters.burst(stage.flows.links, began, self.fabric.env.now, stage.burst)
                carried += stage.burst
        return last, carried

    def _collective(self, rendezvous: Rendezvous, job: CollectiveObserver) -> Generator[simpy.Event, object, None]:
        task = rendezvous.task
        assert task.collective is not None and task.group is not None
        progress = job.started(rendezvous)
        outcome = yield from self.run(
            task.collective,
            task.group,
            task.size,
            splits=rendezvous.splits or None,
            progress=progress,
            loads=task.loads,
        )
        job.finished(rendezvous)
        rendezvous.over.succeed(outcome)

    def _stages(
        self,
        op: Collective,
        algorithm: str,
        options: Options | None,
        *,
        group: str,
        size: float,
        sizes: Floats | None,
        progress: Progress,
    ) -> Iterator[_RoutedStage]:
        """The stages of `op` over `group`, routed one by one as they are needed."""
        stages = partial(schedule, op, algorithm, self._layouts[group], size, sizes=sizes, options=options)
        total = sum(1 for _ in stages())  # a stage is cheap to make and expensive to route
        for done, stage in enumerate(stages()):
            yield from self._routed(group, stage, progress.within(done, total, "stages"))

    def _routed(self, group: str, stage: Stage, progress: Progress) -> Iterator[_RoutedStage]:
        """The routed stage. With bursts, its first repetition is apart, because only that one finds full buckets."""
        gpus = self._placement.gpus[group]
        repeat = stage.repeat
        if self.cluster.transport.burst > 0:
            yield self._with_burst(gpus, stage, progress)
            repeat -= 1
        if repeat:
            flows, scale = self._now.stage(gpus, stage, progress)
            yield _RoutedStage(flows, scale, repeat)

    def _excess(self, group: str, loads: Loads, progress: Progress) -> Iterator[_RoutedStage]:
        """The stages that carry what each member has beyond the smallest total."""
        for stage in excess(np.array(loads.totals), loads.received):
            yield from self._routed(group, stage, progress)

    def _with_burst(self, gpus: Ints, stage: Stage, progress: Progress) -> _RoutedStage:
        """The first repetition of a stage, without the bytes that pass in a burst."""
        cluster = self._now.cluster
        messages, scale = self._now.messages(gpus, stage)
        crossings = incidence(cluster, messages.src, messages.dst, messages.trees, messages.size)
        messages = replace(messages, size=messages.size * scale)
        burst = self._buckets.take(crossings.net, messages, stage.repeat, self.fabric.env.now)
        rest = replace(messages, size=messages.size - burst)
        if cluster.routing.policy == "adaptive":
            crossings = incidence(cluster, rest.src, rest.dst, rest.trees, rest.size)
        flows = route_messages(cluster, rest, folding=self._now.folding, progress=progress, crossings=crossings)
        return _RoutedStage(flows, 1.0, 1, crossed_bytes(cluster, crossings, burst))

    def _count(self, stage: _RoutedStage) -> None:
        self.solves += stage.flows.solves
        self.used[stage.flows.links] = True
        self.error = max(self.error, stage.flows.error)
        self.flow_colours = max(self.flow_colours, len(stage.flows.folded.flow_of))
        self.link_colours = max(self.link_colours, len(stage.flows.folded.link_of))


def _without_latency(stage: _RoutedStage) -> _RoutedStage:
    """A stage without latency, which NCCL's model already counts."""
    return replace(stage, flows=stage.flows.without_latency())


def layout_of(cluster: Cluster, gpus: Ints) -> Layout:
    """How a group sits on the cluster: whether it fills nodes evenly and in order, and which switches can sum."""
    nodes = cluster.node_of(gpus)
    _, counts = np.unique(nodes, return_counts=True)
    even = bool((counts == counts[0]).all()) and np.count_nonzero(np.diff(nodes)) == len(counts) - 1
    return Layout(
        n=len(gpus),
        per_node=int(counts[0]) if even else 1,
        nvls=sums_in_node(cluster),
        sharp=sums_in_fabric(cluster),
    )


def _matrix(group: str, n: int, splits: Mapping[int, tuple[float, ...]] | None) -> Floats | None:
    """Bytes from each member to each other [n, n]; None where all are equal, or not every member gave its splits."""
    if splits is None or len(splits) < n:
        return None
    rows = [splits[member] for member in range(n)]
    if any(len(row) != n for row in rows):
        raise SimulationError(f"all_to_all over {group!r}: a rank gives splits for other than {n} members")
    sizes = np.array(rows, dtype=np.float64)
    np.fill_diagonal(sizes, 0.0)
    return None if (sizes[~np.eye(n, dtype=bool)] == sizes[0, 1]).all() else sizes
