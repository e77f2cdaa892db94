"""The packet network model: each rank runs gloo's code by itself, and packets carry what it sends.

A rank waits only for the ranks whose messages it needs. Ranks therefore drift apart over several steps, until a shared
link is hardly ever idle. A model that waits for the last rank before anything moves would miss that.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

import simpy

from dessim.cluster import Cluster, Gpu
from dessim.cluster.links import IntArray
from dessim.cluster.parts import Transport
from dessim.collectives.gloo import NAME
from dessim.errors import SimulationError
from dessim.sim.collective import CollectiveObserver, Outcome, RankPlacement
from dessim.sim.core.bounds import LATENCY
from dessim.sim.core.counters import Counters
from dessim.sim.core.recorder import Record
from dessim.sim.packet.fabric import PacketFabric
from dessim.sim.packet.gloo_ranks import PROGRAMS, Rank
from dessim.sim.packet.rendezvous import RendezvousChannels
from dessim.sim.rendezvous import Rendezvous
from dessim.trace.schema import Collective
from dessim.workload.dag import Task

THREADS = 2
"""Threads that run the collectives of a group: PyTorch's default for gloo (ProcessGroupGloo.cpp)."""


def supports_packet_model(transport: Transport) -> bool:
    """Whether ranks of `transport` can be simulated one by one: it runs gloo's algorithms for every op of gloo."""
    return all(transport.algorithms.get(op, ()) == (NAME,) for op in PROGRAMS)


class PacketNetwork:
    """The collectives of one job on `fabric`; rank r is on GPU `gpus_of_ranks[r]`, or on GPU r.

    Every rank must have its own class. Raises SimulationError where the cluster's transport is not gloo's.
    """

    threads_per_stream = THREADS

    def __init__(
        self, fabric: PacketFabric, groups: Mapping[str, Sequence[int]], gpus_of_ranks: IntArray | None = None
    ) -> None:
        if not supports_packet_model(fabric.cluster.transport):
            raise SimulationError(
                f"the packet network runs gloo's algorithms, and transport {fabric.cluster.transport.name} has others; "
                "use the fluid network, or a transport that `dessim calibrate --lab` wrote"
            )
        self._fabric = fabric
        self._env = fabric.env
        self._placement = RankPlacement(fabric.cluster, groups, gpus_of_ranks)
        self._channels: dict[int, RendezvousChannels] = {}  # by the id of the rendezvous, which its table keeps alive

    @property
    def cluster(self) -> Cluster:
        return self._fabric.cluster

    @property
    def counters(self) -> Counters:
        return self._fabric.counters

    def gpu_of(self, rank: int) -> Gpu:
        """The device that a rank computes on."""
        return self._placement.gpu_of(rank)

    def note(self, record: Record) -> None:
        """Nothing to add: packets are not folded, and no rates are solved."""

    def join(self, rendezvous: Rendezvous, task: Task, job: CollectiveObserver) -> simpy.Event:
        """Start the part of the rank that joined last. The event fires when that part has finished.

        Raises SimulationError for an op without a packet-level program.
        """
        assert task.collective is not None and task.group is not None
        if task.collective not in (Collective.BARRIER, *PROGRAMS):
            raise SimulationError(f"{task.name}: the packet network has no {task.collective}; use the fluid network")
        gpus = self._placement.gpus[task.group].tolist()
        channels = self._channels.get(id(rendezvous))
        if channels is None:
            channels = RendezvousChannels(self._fabric, task.group, gpus)
            self._channels[id(rendezvous)] = channels
        rank = Rank(
            env=self._env,
            n=len(gpus),
            me=rendezvous.members[-1],
            channels=channels,
            transport=self.cluster.transport,
            cores=self._fabric.cores,
        )
        done = self._env.event()
        self._env.process(self._run(rank, task, done))
        if rendezvous.complete:
            job.started(rendezvous)
            job.finished(rendezvous)
            rendezvous.over.succeed()
        return done

    def _run(self, rank: Rank, task: Task, done: simpy.Event) -> Generator[simpy.Event, object, None]:
        assert task.collective is not None
        began = self._env.now
        splits = task.loads.sent_by(rank.me) if task.loads is not None else task.splits or ()
        moves_data = rank.n > 1 and (task.size > 0 or bool(splits))
        if task.collective is not Collective.BARRIER and moves_data:
            yield from rank.launch()
            yield from PROGRAMS[task.collective](rank, task.size, splits)
        done.succeed(Outcome(NAME, began, rank.parts or {LATENCY: 0.0}))
