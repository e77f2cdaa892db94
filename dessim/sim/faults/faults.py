"""Faults: links that go down, or become slower, while a job runs, and come back.

Faults split a run into *states* of the cluster. When the state changes, every flow in flight keeps its remaining bytes
and continues on the routes of the new state, at new max-min rates; stages that begin later are routed on the new state.
Each state has its own cache of routes, so a link that flaps is routed twice in all, not twice per flap. A flow without
a route waits, like a reliable connection that retransmits; after `timeout` seconds the run fails and names the flow.

`auto` keeps choosing algorithms as on the cluster without faults: a tuner measures the network once, when a job starts.
Left out: packets lost at the instant of the fault, and the time that routing takes to converge (0 here; seconds where a
subnet manager has to sweep).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

import simpy

from dessim.cluster import Cluster
from dessim.cluster.faults import find_links
from dessim.sim.fluid.fabric import RETRY_TIMEOUT_S, FlowFabric
from dessim.sim.fluid.model import FluidNetwork


@dataclass(frozen=True, slots=True)
class Fault:
    """The links that `which` names (dessim.cluster.faults) keep `share` of their capacity, from 0 (down) to 1.

    The fault lasts from `start` to `end` [s]; `end` may be infinite.
    """

    which: str
    start: float
    end: float = math.inf
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Faults:
    """All link faults of a run.

    A flow without a route fails the run after `timeout` seconds. `path` is the fault file, for error messages.
    """

    faults: tuple[Fault, ...]
    timeout: float = RETRY_TIMEOUT_S
    path: Path = Path("faults")

    def states(self, cluster: Cluster) -> list[tuple[float, Cluster]]:
        """The times [s] at which the cluster changes, each with its new state; equal states are one object.

        Where faults overlap, the worst one counts. Raises ClusterError for an unknown name.
        """
        links = [find_links(cluster.links, fault.which, self.path) for fault in self.faults]
        times = sorted({time for fault in self.faults for time in (fault.start, fault.end) if time < math.inf})
        known: dict[tuple[int, ...], Cluster] = {(): cluster}
        changes: list[tuple[float, Cluster]] = []
        for time in times:
            active = [i for i, fault in enumerate(self.faults) if fault.start <= time < fault.end]
            worst_last = tuple(sorted(active, key=lambda i: -self.faults[i].share))
            if worst_last not in known:
                known[worst_last] = cluster.with_links([(links[i], self.faults[i].share) for i in worst_last])
            if known[worst_last] is not (changes[-1][1] if changes else cluster):
                changes.append((time, known[worst_last]))
        return changes

    def apply(
        self, env: simpy.Environment, fabric: FlowFabric, jobs: Iterable[FluidNetwork]
    ) -> Generator[simpy.Event, object, None]:
        """A process: at each time of `states`, change the fabric and the routes that stages of `jobs` use."""
        jobs = tuple(jobs)
        for time, cluster in self.states(fabric.cluster):
            if time > env.now:
                yield env.timeout(time - env.now)
            for job in jobs:
                job.reroute(cluster)
            fabric.change(cluster)
