"""The interface between the event loop and the network models: ranks join a collective, and an outcome comes back.

The engine (engine.py) knows when a rank arrives at a collective. A `NetworkModel` knows how the collective then moves
its data: `FluidNetwork` (fluid/model.py) runs it for all ranks together as soon as the last one has arrived, with
max-min fair rates; `PacketNetwork` (packet/model.py) runs it rank by rank, packet by packet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import simpy

from dessim.cluster import Cluster, Gpu
from dessim.cluster.links import FloatArray, IntArray
from dessim.sim.core.bounds import Parts
from dessim.sim.core.counters import Counters
from dessim.sim.core.recorder import Record
from dessim.sim.progress import Progress
from dessim.sim.rendezvous import Rendezvous
from dessim.workload.dag import Task


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an op.

    `algorithm` is that of a collective ("" for other ops). Data began to move at `moving_since` [s]; `parts` are the
    seconds from then on per bottleneck. `carried` [link classes] are the bytes that each link class carried for it
    (None: not counted per op).
    """

    algorithm: str
    moving_since: float
    parts: Parts
    carried: FloatArray | None = None


class CollectiveObserver(Protocol):
    """The job, as a network model sees it: notified when collectives start and end."""

    def started(self, rendezvous: Rendezvous) -> Progress:
        """All ranks have arrived and data begins to move. Returns the progress of this collective."""
        ...

    def finished(self, rendezvous: Rendezvous) -> None:
        """No rank has any data left to send."""
        ...


class NetworkModel(Protocol):
    """Runs the collectives of one job on a cluster that other jobs may share."""

    @property
    def cluster(self) -> Cluster:
        """The cluster of the job."""
        ...

    @property
    def counters(self) -> Counters:
        """Bytes per link class, of all jobs on the cluster."""
        ...

    @property
    def threads_per_stream(self) -> int:
        """How many collectives a stream runs at once, beside its compute ops. 0: one op at a time, of any kind."""
        ...

    def gpu_of(self, rank: int) -> Gpu:
        """The device that a rank computes on."""
        ...

    def join(self, rendezvous: Rendezvous, task: Task, job: CollectiveObserver) -> simpy.Event:
        """Let the ranks that joined `rendezvous` last, with their `task`, take part in the collective.

        The event fires when the collective has finished for these ranks; its value is their `Outcome`. Raises
        SimulationError for a collective that the model does not support.
        """
        ...

    def note(self, record: Record) -> None:
        """Write what the model counted for this job into `record`."""
        ...


class RankPlacement:
    """The GPU of each rank of a job, and the GPUs of its groups. Rank r is on GPU `gpus_of_ranks[r]`, or on GPU r."""

    def __init__(
        self, cluster: Cluster, groups: Mapping[str, Sequence[int]], gpus_of_ranks: IntArray | None = None
    ) -> None:
        self._cluster = cluster
        self._gpus_of_ranks = gpus_of_ranks
        ranks = {name: np.asarray(members, dtype=np.int64) for name, members in groups.items()}
        self.gpus: Mapping[str, IntArray] = {
            name: members if gpus_of_ranks is None else gpus_of_ranks[members] for name, members in ranks.items()
        }

    def gpu_of(self, rank: int) -> Gpu:
        """The device that a rank computes on."""
        ((gpu, _),) = self._cluster.devices([rank if self._gpus_of_ranks is None else self._gpus_of_ranks[rank]])
        return gpu
