"""Faults: links that go down or become slower while a job runs, and recover.

Faults split a run into *states* of the cluster. When the state changes, every flow in flight keeps its remaining bytes
and continues on the routes of the new state, at new max-min rates; stages that begin later are routed on the new state.
Each state has its own cache of routes, so a link that flaps costs two routings in all, not two per flap. A flow without
a route waits, like a reliable connection that retransmits; after `timeout` seconds the run fails and names the flow.

`auto` chooses algorithms as on the cluster without faults: a tuner measures the network once, when a job starts. Left
out: packets lost at the instant of the fault, and the time that routing takes to converge (0 here; seconds where a
subnet manager has to sweep).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import simpy

from dessim.cluster import Cluster
from dessim.cluster.faults import find_links
from dessim.cluster.links import IntArray
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

    def check_names(self, cluster: Cluster) -> None:
        """Raise ClusterError for a fault whose name the cluster does not have."""
        self._links(cluster)

    def states(self, cluster: Cluster) -> Iterator[tuple[float, Cluster]]:
        """The times [s] at which the cluster changes, each with its new state; equal states are one object.

        Where faults overlap, the worst one counts. Raises ClusterError for an unknown name.
        """
        links = self._links(cluster)
        known: dict[tuple[tuple[str, float], ...], Cluster] = {(): cluster}
        active: dict[int, Fault] = {}
        state = cluster
        for time, changes in groupby(self._changes(), key=itemgetter(0)):
            for _, number, begins in changes:
                if begins:
                    active[number] = self.faults[number]
                else:
                    del active[number]
            worst_last = sorted((active[number] for number in sorted(active)), key=lambda fault: -fault.share)
            # By name and share, not by fault: a fault that repeats returns to the same state.
            key = tuple(dict.fromkeys((fault.which, fault.share) for fault in worst_last))
            if key not in known:
                known[key] = cluster.with_links([(links[which], share) for which, share in key])
            if known[key] is not state:
                state = known[key]
                yield time, state

    def _links(self, cluster: Cluster) -> dict[str, IntArray]:
        """The links of each name."""
        names = dict.fromkeys(fault.which for fault in self.faults)
        return {which: find_links(cluster.links, which, self.path) for which in names}

    def _changes(self) -> list[tuple[float, int, bool]]:
        """The times [s] at which a fault, given by its number, begins or ends, in their order."""
        lasting = [(number, fault) for number, fault in enumerate(self.faults) if fault.start < fault.end]
        begins = [(fault.start, number, True) for number, fault in lasting]
        return sorted(begins + [(fault.end, number, False) for number, fault in lasting if fault.end < math.inf])

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
