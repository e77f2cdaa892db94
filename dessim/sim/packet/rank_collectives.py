"""Collectives of ranks that come and go one by one: each runs gloo's code, and packets carry what it sends.

Nobody waits for a rank that it has no business with. So ranks drift apart over several steps, until a link that all
share is hardly ever idle; to wait for the last one first, as collectives of classes of ranks do, would miss that.
"""

from __future__ import annotations

from collections.abc import Generator

import simpy

from dessim.cluster.parts import Transport
from dessim.collectives.gloo import NAME
from dessim.errors import SimulationError
from dessim.sim.collective import Collectives, Outcome
from dessim.sim.core.cores import Cores
from dessim.sim.core.counters import Counters
from dessim.sim.core.ticks import whole_ticks
from dessim.sim.packet.gloo_ranks import PROGRAMS, Rank
from dessim.sim.packet.packets import Packets
from dessim.sim.packet.rendezvous import RendezvousChannels
from dessim.sim.rendezvous import Rendezvous
from dessim.trace.schema import Collective
from dessim.workload.dag import Task

THREADS = 2
"""That run the collectives of a group: as many PyTorch gives a gloo group (ProcessGroupGloo.cpp)."""


def supports_packet_model(transport: Transport) -> bool:
    """Whether ranks of `transport` can be simulated so: it is gloo for all that gloo has."""
    return all(transport.algorithms.get(op, ()) == (NAME,) for op in PROGRAMS)


class RankCollectives:
    """All collectives of a workload whose ranks are simulated one by one."""

    def __init__(self, env: simpy.Environment, collectives: Collectives, counters: Counters, cores: Cores) -> None:
        self._env, self._collectives, self._cores = env, collectives, cores
        self._packets = Packets(env, collectives.cluster, counters, cores)
        self._pairs: dict[int, RendezvousChannels] = {}  # of each rendezvous, by id

    def join(self, rendezvous: Rendezvous, task: Task) -> simpy.Event:
        """The last rank of `rendezvous` has arrived with its `task`. The event is its own end, an Outcome."""
        assert task.collective is not None and task.group is not None
        if task.collective not in (Collective.BARRIER, *PROGRAMS):
            raise SimulationError(f"{task.name}: {task.collective} is not simulated rank by rank")
        gpus = self._collectives.gpus(task.group)
        pairs = self._pairs.setdefault(id(rendezvous), RendezvousChannels(self._env, self._packets, task.group, gpus))
        transport = self._collectives.cluster.transport
        rank = Rank(self._env, len(gpus), rendezvous.members[-1], pairs, transport, self._cores)
        over = self._env.event()
        self._env.process(self._run(rank, task, over))
        return over

    def _run(self, rank: Rank, task: Task, over: simpy.Event) -> Generator[simpy.Event, object, None]:
        assert task.collective is not None
        began = self._env.now
        if task.collective is not Collective.BARRIER and rank.n > 1 and (task.size > 0 or task.splits):
            yield self._env.timeout(whole_ticks(rank.transport.op_overhead))
            yield from PROGRAMS[task.collective](rank, task.size, task.splits or ())
        over.succeed(Outcome(NAME, began, {}))
