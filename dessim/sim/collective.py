"""Running a collective: wait for the last member, choose an algorithm, walk its stages through the network."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import simpy

from dessim.cluster import Cluster
from dessim.collectives import Layout, Stage, algorithms_for, schedule
from dessim.errors import SimulationError
from dessim.sim.flows import Flows, route_flows
from dessim.sim.maxmin import Floats, Ints
from dessim.sim.network import Network
from dessim.trace.schema import Collective


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a collective went."""

    algorithm: str
    moving: float
    bound_by: str


@dataclass(frozen=True, slots=True)
class _Step:
    """A stage on this cluster: flows for scale 1, and the bytes that make the scale."""

    flows: Flows
    scale: float
    repeat: int


class Routed:
    """Patterns of messages that were routed on one cluster, for reuse: across ops, steps and simulations."""

    def __init__(self, cluster: Cluster, folding: bool = True) -> None:
        self.cluster, self.folding = cluster, folding
        self._flows: dict[tuple[object, ...], Flows] = {}

    def stage(self, gpus: Ints, stage: Stage) -> tuple[Flows, float]:
        """Flows of a stage over the group on `gpus`, and their scale. Equal sizes are routed once, for every size."""
        largest = float(stage.size.max(initial=0.0))
        if largest > 0 and not (stage.size == largest).all():
            return self._route(gpus, stage, stage.size), 1.0
        key = (stage.pattern, stage.reduce, len(gpus), gpus.tobytes())
        if key not in self._flows:
            self._flows[key] = self._route(gpus, stage, np.ones(len(stage.src)))
        return self._flows[key], largest

    def _route(self, gpus: Ints, stage: Stage, size: Floats) -> Flows:
        return route_flows(self.cluster, gpus[stage.src], gpus[stage.dst], size, stage.reduce, self.folding)


class Collectives:
    """Prices and runs the collectives of a job."""

    def __init__(
        self,
        routed: Routed,
        groups: Mapping[str, Sequence[int]],
        algorithms: Mapping[Collective, str] | None = None,
    ) -> None:
        self._routed, self._cluster = routed, routed.cluster
        self._gpus: dict[str, Ints] = {name: np.asarray(ranks, dtype=np.int64) for name, ranks in groups.items()}
        self._layouts = {name: layout_of(self._cluster, gpus) for name, gpus in self._gpus.items()}
        self._wanted = dict(algorithms or {})
        self._chosen: dict[tuple[object, ...], str] = {}

    def steps(self, op: Collective, algorithm: str, group: str, size: float, sizes: Floats | None) -> list[_Step]:
        """The stages of `op` over `group`, routed."""
        gpus = self._gpus[group]
        return [
            _Step(*self._routed.stage(gpus, stage), stage.repeat)
            for stage in schedule(op, algorithm, self._layouts[group], size, sizes)
        ]

    def choose(self, op: Collective, group: str, size: float, sizes: Floats | None) -> str:
        """The algorithm: as asked for, or for `auto` the one that is fastest on an idle network, as a tuner would."""
        wanted = self._wanted.get(op, "auto")
        if wanted != "auto":
            return wanted
        key = (op, group, size) if sizes is None else (op, group, size, sizes.tobytes())
        if key not in self._chosen:
            names = algorithms_for(op, self._layouts[group], uneven=sizes is not None)
            if len(names) == 1:
                self._chosen[key] = names[0]
            else:
                self._chosen[key] = min(names, key=lambda name: self.alone(op, name, group, size, sizes))
        return self._chosen[key]

    def alone(self, op: Collective, algorithm: str, group: str, size: float, sizes: Floats | None = None) -> float:
        """Seconds on an idle network."""
        return self._cluster.transport.op_overhead + sum(
            step.repeat * step.flows.alone(step.scale) for step in self.steps(op, algorithm, group, size, sizes)
        )

    def run(
        self,
        env: simpy.Environment,
        network: Network,
        op: Collective,
        group: str,
        size: float,
        splits: Mapping[int, tuple[int, ...]] | None,
    ) -> Generator[simpy.Event, str, Outcome]:
        """A process: from the moment the last member has come until the last message has arrived."""
        moving = env.now
        if len(self._gpus[group]) < 2 or op is Collective.BARRIER:
            # Nobody to talk to; a barrier moves nothing that is worth a model here.
            return Outcome("none", moving, "latency")
        sizes = _matrix(group, len(self._gpus[group]), splits)
        if sizes is None and size == 0:
            return Outcome("none", moving, "latency")
        algorithm = self.choose(op, group, size, sizes)
        bound_by = "latency"
        if self._cluster.transport.op_overhead > 0:
            yield env.timeout(self._cluster.transport.op_overhead)
        longest = 0.0
        for step in self.steps(op, algorithm, group, size, sizes):
            began = env.now
            bound = yield network.transfer(step.flows, step.scale, step.repeat)
            if env.now - began > longest:
                longest, bound_by = env.now - began, bound
        if env.now <= moving:
            raise SimulationError(f"{op} of {size:g} B over {group!r} took no time; a link or overhead must cost some")
        return Outcome(algorithm, moving, bound_by)


def layout_of(cluster: Cluster, gpus: Ints) -> Layout:
    """Whether a group fills nodes evenly, consecutive ranks together."""
    nodes = cluster.node_of(gpus)
    _, counts = np.unique(nodes, return_counts=True)
    even = bool((counts == counts[0]).all()) and bool((np.diff(nodes) >= 0).all())
    return Layout(len(gpus), int(counts[0]) if even else 1)


def _matrix(group: str, n: int, splits: Mapping[int, tuple[int, ...]] | None) -> Floats | None:
    """Bytes from each member to each other, from what every member says it sends."""
    if splits is None or len(splits) < n:
        return None
    rows = [splits[member] for member in range(n)]
    if any(len(row) != n for row in rows):
        raise SimulationError(f"all_to_all over {group!r}: a rank gives splits for other than {n} members")
    sizes = np.array(rows, dtype=np.float64)
    np.fill_diagonal(sizes, 0.0)
    return None if (sizes[~np.eye(n, dtype=bool)] == sizes[0, 1]).all() else sizes
