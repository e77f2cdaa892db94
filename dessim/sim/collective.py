"""Running a collective: wait for the last member, choose an algorithm, walk its stages through the network."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import simpy

from dessim.cluster import Cluster, Gpu
from dessim.cluster.tree_routes import sums_in_fabric, sums_in_node
from dessim.collectives import Layout, Options, Stage, algorithms_for, schedule
from dessim.collectives.choose import Floor, fastest
from dessim.errors import SimulationError
from dessim.sim.fluid.buckets import Buckets
from dessim.sim.fluid.flows import LATENCY, Flows, Parts, add_parts, route_flows
from dessim.sim.fluid.maxmin import Floats, Ints
from dessim.sim.fluid.network import Network
from dessim.sim.progress import Progress
from dessim.trace.schema import Collective


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an op went: a collective's `algorithm` ("" of others), when it began to move data, the seconds from then on
    by what bound them, and the bytes that each link class carried for it [link classes] (None: none)."""

    algorithm: str
    moving: float
    parts: Parts
    carried: Floats | None = None


@dataclass(frozen=True, slots=True)
class _Step:
    """A stage on this cluster: flows for scale 1, and the bytes that make the scale. Of each message of the first
    repetition `ahead` [n] bytes have gone in a burst, and are in `flows` no more."""

    flows: Flows
    scale: float
    repeat: int
    ahead: Floats | None = None


class RouteCache:
    """Patterns of messages that were routed on one cluster, for reuse: across ops, steps and simulations.

    An all_to_all has thousands of patterns, so what is kept of each is small: not the messages, which whoever asks
    brings along, and one list of links for all patterns that use the same. `tolerance` is that of
    `dessim.sim.fluid.drain.drain`: how far a stage may be off, for many different flows in less time.
    """

    def __init__(self, cluster: Cluster, folding: bool = True, tolerance: float = 0.0) -> None:
        self.cluster, self.folding, self.tolerance = cluster, folding, tolerance
        self._priced: dict[tuple[object, ...], Flows] = {}
        self._chained: dict[tuple[object, ...], Flows] = {}
        self._links: dict[bytes, Ints] = {}
        self._groups: dict[bytes, int] = {}
        self._states: dict[bytes, RouteCache] = {}

    def on(self, cluster: Cluster) -> RouteCache:
        """The same for another state of the cluster, with prices of its own. A state that comes back finds them."""
        key = cluster.links.capacity.tobytes()
        if key == self.cluster.links.capacity.tobytes():
            return self
        return self._states.setdefault(key, RouteCache(cluster, self.folding, self.tolerance))

    def stage(self, gpus: Ints, stage: Stage, progress: Progress | None = None) -> tuple[Flows, float]:
        """Flows of a stage over the group on `gpus`, and their scale. Equal sizes are routed once, for every size.

        Raises OutOfTime when `progress` says so.
        """
        largest = float(stage.size.max(initial=0.0))
        if not stage.pattern or largest == 0:
            return self._route(gpus, stage, stage.size, progress), 1.0
        group = self._groups.setdefault(gpus.tobytes(), len(self._groups))
        if stage.after is not None:  # delays do not scale
            whole = (stage.pattern, stage.size.tobytes(), group)
            if whole not in self._chained:
                self._chained[whole] = self._route(gpus, stage, stage.size, progress)
            return self._chained[whole], 1.0
        relative = stage.size / largest
        shape = b"" if (relative == 1.0).all() else hashlib.blake2b(relative.tobytes()).digest()
        # Whether the receiver sums matters only where summing takes time.
        sums = stage.reduce if self.cluster.transport.reduction_rate < np.inf else False
        flags = sums if isinstance(sums, bool) else sums.tobytes()
        key = (stage.pattern, flags, shape, group, stage.in_flight)
        if key in self._priced:
            trees = stage.trees.on(gpus) if stage.trees is not None else None
            return self._priced[key].carrying(gpus[stage.src], gpus[stage.dst], relative, trees), largest
        flows = self._route(gpus, stage, relative, progress)
        used = np.zeros(len(self.cluster.links), dtype=bool)
        used[flows.links] = True
        self._priced[key] = flows.without_messages(self._links.setdefault(np.packbits(used).tobytes(), flows.links))
        return flows, largest

    def _route(self, gpus: Ints, stage: Stage, size: Floats, progress: Progress | None) -> Flows:
        src, dst = gpus[stage.src], gpus[stage.dst]
        trees = stage.trees.on(gpus) if stage.trees is not None else None
        return route_flows(
            *(self.cluster, src, dst, size, stage.reduce, self.folding, trees, self.tolerance, progress),
            in_flight=stage.in_flight,
            after=stage.after,
            begins=stage.begins,
        )


class Collectives:
    """Prices and runs the collectives of a job, whose rank r sits on GPU `seats[r]`, or on GPU r.

    Of what ran so far: `solves`, how often rates were solved when its stages were routed, and the most colours of flows
    and links that one of them had, the largest relative `error` a tolerance let in, and `used`: which links [n_links]
    carried something.
    """

    def __init__(
        self,
        routed: RouteCache,
        groups: Mapping[str, Sequence[int]],
        algorithms: Mapping[Collective, str] | None = None,
        options: Options | None = None,
        seats: Ints | None = None,
    ) -> None:
        self._built = self._routed = routed  # as built, and as it is now
        self.cluster = routed.cluster
        ranks = {name: np.asarray(members, dtype=np.int64) for name, members in groups.items()}
        self._seats = seats
        self._gpus = {name: of if seats is None else seats[of] for name, of in ranks.items()}
        self._layouts = {name: layout_of(self.cluster, gpus) for name, gpus in self._gpus.items()}
        self._wanted, self._options = dict(algorithms or {}), options
        self.solves = self.flow_colours = self.link_colours = 0
        self.error = 0.0
        self.used = np.zeros(len(self.cluster.links), dtype=bool)
        self._buckets = Buckets(self.cluster)
        self._chosen: dict[tuple[object, ...], str] = {}

    def gpu_of(self, rank: int) -> Gpu:
        """What a rank computes on."""
        ((gpu, _),) = self.cluster.devices([rank if self._seats is None else self._seats[rank]])
        return gpu

    def gpus(self, group: str) -> list[int]:
        """Where the ranks of a group sit, in its order."""
        gpus: list[int] = self._gpus[group].tolist()
        return gpus

    def reroute(self, cluster: Cluster) -> None:
        """Stages that begin from now on take the ways of `cluster`, another state of what was built."""
        self._routed = self._built.on(cluster)

    def steps(
        self, op: Collective, algorithm: str, group: str, size: float, sizes: Floats | None, progress: Progress
    ) -> Iterator[_Step]:
        """The stages of `op` over `group`, routed one by one."""
        gpus = self._gpus[group]
        stages = partial(schedule, op, algorithm, self._layouts[group], size, sizes, self._options)
        total = sum(1 for _ in stages())  # routing costs far more
        for done, stage in enumerate(stages()):
            yield _Step(*self._routed.stage(gpus, stage, progress.within(done, total, "stages")), stage.repeat)

    def _bursts(self, env: simpy.Environment, steps: Iterator[_Step]) -> Iterator[_Step]:
        """The steps, less what links let pass at once: of a step's repetitions only the first has any."""
        if self.cluster.transport.burst == 0:
            yield from steps
            return
        cluster, folding = self._routed.cluster, self._routed.folding
        for step in steps:
            flows, size = step.flows, step.flows.size * step.scale
            ahead = self._buckets.take(cluster, flows, size, step.repeat, env.now)
            yield _Step(flows.carrying_only(cluster, size - ahead, folding), 1.0, 1, ahead)
            if step.repeat > 1:
                yield replace(step, repeat=step.repeat - 1)

    def choose(self, op: Collective, group: str, size: float, sizes: Floats | None, progress: Progress) -> str:
        """The algorithm that is fastest on an idle network, as a tuner would choose."""
        key = (op, group, size) if sizes is None else (op, group, size, sizes.tobytes())
        if key not in self._chosen:
            gpus, layout = self._gpus[group], self._layouts[group]
            floor, bounded, priced = Floor(self.cluster, gpus), 0, 0

            def bound(stage: Stage) -> float:
                nonlocal bounded
                progress.check()
                bounded += 1
                return floor(stage)

            def price(stage: Stage) -> float:
                nonlocal priced
                flows, scale = self._built.stage(gpus, stage, progress.within(priced, bounded, "stages_priced"))
                priced += 1
                return flows.alone(scale)

            self._chosen[key] = fastest(
                algorithms_for(op, layout, sizes is not None, self.cluster.transport.algorithms.get(op, ())),
                lambda name: schedule(op, name, layout, size, sizes, self._options),
                bound,
                price,
            )
        return self._chosen[key]

    def run(
        self,
        env: simpy.Environment,
        network: Network,
        op: Collective,
        group: str,
        size: float,
        splits: Mapping[int, tuple[float, ...]] | None,
        progress: Progress,
    ) -> Generator[simpy.Event, Parts, Outcome]:
        """A process: from the moment the last member has come until the last message has arrived."""
        moving = env.now
        if len(self._gpus[group]) < 2 or op is Collective.BARRIER:
            # Nobody to talk to; a barrier moves nothing that is worth a model here.
            return Outcome("none", moving, {LATENCY: 0.0})
        sizes = _matrix(group, len(self._gpus[group]), splits)
        if sizes is None and size == 0:
            return Outcome("none", moving, {LATENCY: 0.0})
        algorithm = self._wanted.get(op, "auto")
        if algorithm == "auto":
            algorithm = self.choose(op, group, size, sizes, progress.within(0, 2))
            progress = progress.within(1, 2)
        parts: dict[str, float] = {}
        last: Flows | None = None
        carried = np.zeros(len(self.cluster.links.kinds))
        if self.cluster.transport.op_overhead > 0:
            yield env.timeout(self.cluster.transport.op_overhead)
            parts[LATENCY] = self.cluster.transport.op_overhead
        for step in self._bursts(env, self.steps(op, algorithm, group, size, sizes, progress)):
            self.solves += step.flows.solves
            self.used[step.flows.links] = True
            self.error = max(self.error, step.flows.error)
            self.flow_colours = max(self.flow_colours, len(step.flows.folded.flow_of))
            self.link_colours = max(self.link_colours, len(step.flows.folded.link_of))
            carried += step.flows.bytes_by_kind * (step.scale * step.repeat)
            began, last = env.now, step.flows
            took = yield network.transfer(step.flows, step.scale, step.repeat)
            add_parts(parts, took)
            if step.ahead is not None:
                burst = step.flows.load(self.cluster, step.ahead)
                network.counters.burst(step.flows.links, began, env.now, burst)
                carried += burst
        if self.cluster.transport.host_overhead > 0 and last is not None:
            # A stage waits for a rank on average; the end for the last one.
            woken = max(last.at_once() * self.cluster.transport.host_overhead - last.waking, 0.0)
            yield env.timeout(woken)
            add_parts(parts, {LATENCY: woken})
        if env.now <= moving:
            raise SimulationError(f"{op} of {size:g} B over {group!r} took no time; a link or overhead must cost some")
        return Outcome(algorithm, moving, parts, carried)


def layout_of(cluster: Cluster, gpus: Ints) -> Layout:
    """Whether a group fills nodes evenly, the ranks of each one after the other, and which switches sum."""
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
    """Bytes from each member to each other, from what every member says it sends."""
    if splits is None or len(splits) < n:
        return None
    rows = [splits[member] for member in range(n)]
    if any(len(row) != n for row in rows):
        raise SimulationError(f"all_to_all over {group!r}: a rank gives splits for other than {n} members")
    sizes = np.array(rows, dtype=np.float64)
    np.fill_diagonal(sizes, 0.0)
    return None if (sizes[~np.eye(n, dtype=bool)] == sizes[0, 1]).all() else sizes
