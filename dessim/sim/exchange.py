"""An all_to_all that every pair of ranks begins as soon as both are there, and that each rank leaves when it has all.

So it is with gloo: nobody waits for a rank that it has exchanged with already. Where ranks come at different times,
those that came first are done first, and compute while others still communicate; over several steps ranks drift apart
until a link that all share is never idle. To wait for the last rank first, as other collectives do, would miss that.

Which of two goes first: dessim/collectives/gloo.py.
"""

from __future__ import annotations

from collections.abc import Generator

import simpy

from dessim.collectives.gloo import gloo_pair
from dessim.sim.collective import Collectives, Outcome
from dessim.sim.flows import Parts
from dessim.sim.meetings import Meeting
from dessim.sim.network import Network
from dessim.trace.schema import Collective
from dessim.workload.dag import Task


class Exchanges:
    """All exchanges of a workload whose ranks are simulated one by one."""

    def __init__(self, env: simpy.Environment, network: Network, collectives: Collectives) -> None:
        self._env, self._network, self._collectives = env, network, collectives
        self._left: dict[int, dict[int, int]] = {}  # of each meeting (by id): how many pairs each rank still has
        self._over: dict[int, dict[int, simpy.Event]] = {}

    def fits(self, task: Task) -> bool:
        """Whether `task` is such an exchange."""
        return (
            task.collective is Collective.ALL_TO_ALL
            and task.splits is None
            and task.size > 0
            and self._collectives.cluster.transport.algorithms.get(Collective.ALL_TO_ALL, ()) == ("gloo",)
        )

    def join(self, meeting: Meeting) -> simpy.Event:
        """The last rank of `meeting` has just come. The event is its own end; its value is an Outcome."""
        key, mine = id(meeting), meeting.members[-1]
        over = self._over.setdefault(key, {})
        over[mine] = self._env.event()
        self._left.setdefault(key, {})[mine] = meeting.size - 1
        for other in meeting.members[:-1]:
            self._env.process(self._pair(meeting, other, mine))
        return over[mine]

    def _pair(self, meeting: Meeting, early: int, late: int) -> Generator[simpy.Event, Parts, None]:
        """A process: two ranks exchange, the later one of which has just come."""
        transport, began = self._collectives.cluster.transport, self._env.now
        yield self._env.timeout(transport.op_overhead)
        stage = gloo_pair(meeting.size, meeting.task.size, early, late)
        yield from self._collectives.move(self._env, self._network, meeting.task.group or "", stage)
        left, over = self._left[id(meeting)], self._over[id(meeting)]
        for rank in (early, late):
            left[rank] -= 1
            if not left[rank]:
                self._env.process(self._leave(over[rank], began))

    def _leave(self, over: simpy.Event, began: float) -> Generator[simpy.Event, object, None]:
        yield self._env.timeout(self._collectives.cluster.transport.host_overhead)
        over.succeed(Outcome("gloo", began, {}))
