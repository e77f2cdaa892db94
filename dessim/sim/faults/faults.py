"""Faults: links that go down, or become slower, while a job runs, and come back.

A fault splits a run into *states* of the cluster. At its instant everything in flight gets its remaining bytes back and
goes on over the ways that the new state has, at new max-min rates; stages that begin later are routed on it. Each state
keeps its own prices, so a link that flaps is routed twice, not twice a flap. Flows that no way is left to wait, as a
reliable connection does that sends again and again; after `timeout` the run fails with their names.

`auto` keeps choosing as on the cluster as built: a tuner looks at it once, when a job starts, and is not told of what
happens to switches. Left out: packets lost on the wire at the instant itself, and the time that routing takes to
converge (none here; seconds where a subnet manager has to sweep).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import simpy

from dessim.cluster import Cluster
from dessim.cluster.faults import find_links
from dessim.sim.fluid.fabric import RETRY_TIMEOUT_S, FlowFabric

if TYPE_CHECKING:
    from dessim.sim.fluid.model import FluidNetwork


@dataclass(frozen=True, slots=True)
class Fault:
    """The links that `which` names (`dessim.cluster.faults`) have `share` of their capacity, 0 (down) to 1, from
    `start` to `end` [s] (inf: for good)."""

    which: str
    start: float
    end: float = math.inf
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens to the links of a cluster. A flow with no way left gives up after `timeout` seconds; `path` is the
    file that says so, for errors."""

    faults: tuple[Fault, ...]
    timeout: float = RETRY_TIMEOUT_S
    path: Path = Path("faults")

    def states(self, cluster: Cluster) -> list[tuple[float, Cluster]]:
        """When the cluster changes, and into what; equal states are one object. Of faults that overlap the worst
        counts. Raises ClusterError for a name that is none."""
        links = [find_links(cluster.links, fault.which, self.path) for fault in self.faults]
        times = sorted({time for fault in self.faults for time in (fault.start, fault.end) if time < math.inf})
        known: dict[tuple[int, ...], Cluster] = {(): cluster}
        changes: list[tuple[float, Cluster]] = []
        for time in times:
            at_work = [i for i, fault in enumerate(self.faults) if fault.start <= time < fault.end]
            worst_last = tuple(sorted(at_work, key=lambda i: -self.faults[i].share))
            if worst_last not in known:
                known[worst_last] = cluster.with_links([(links[i], self.faults[i].share) for i in worst_last])
            if known[worst_last] is not (changes[-1][1] if changes else cluster):
                changes.append((time, known[worst_last]))
        return changes

    def strike(
        self, env: simpy.Environment, fabric: FlowFabric, jobs: Iterable[FluidNetwork]
    ) -> Generator[simpy.Event, object, None]:
        """A process: change the network at each instant, and with it what the collectives of `jobs` route on."""
        jobs = tuple(jobs)
        for time, cluster in self.states(fabric.cluster):
            if time > env.now:
                yield env.timeout(time - env.now)
            for job in jobs:
                job.reroute(cluster)
            fabric.change(cluster)
