"""Cores of one machine that several ranks share, as processes of one host, or of a lab, do.

A stream that computes is a thread and fills at most one core. Where more threads compute than there are cores, they
take turns in time slices, as the kernel's scheduler arranges. Ranks then do not finish together: some communicate while
others compute. Packets take precedence over threads: the time that cores spend on packets (`Transport.core_rate`) slows
the threads down. A thread that waited for a message (`Transport.host_overhead`) gets the next core that becomes free.

Left out: memory bandwidth and caches that threads share, the affinity of a thread to its core, and packets that wait
for a core.
"""

from __future__ import annotations

from collections.abc import Generator
from heapq import heappop, heappush
from itertools import count as count_up

import simpy

from dessim.cluster.hashing import mix_int
from dessim.sim.core.ticks import coarse_ticks, whole_ticks

TIME_SLICE_S = whole_ticks(4e-3)
"""How long a thread runs while others wait: a tick of Linux at 250 Hz, the default of most distributions."""
_MIN_THREAD_SHARE = 0.1
"""The least share of a core that packets leave to threads: the kernel defers packets that would lock threads out."""
_SHORTEST_EVENT_S = 1e-9


class Cores:
    """`count` identical cores; `packets_s` are the seconds that they have spent on packets."""

    def __init__(self, env: simpy.Environment, count: int) -> None:
        assert count > 0, "a machine has at least one core"
        self.packets_s = 0.0
        self._env = env
        self._count = count
        self._free = count
        self._waiting: list[tuple[int, float, int, simpy.Event]] = []  # priority, since, number, granted
        self._numbers = count_up()

    def wake(self, seconds: float) -> Generator[simpy.Event, object, None]:
        """A process: a thread that waited for a message continues.

        Waking takes `seconds` of the whole machine, which is `count` times `seconds` of one core. The thread is served
        before threads that compute, but interrupts none.
        """
        yield self._request(-1)
        yield simpy.Timeout(self._env, whole_ticks(seconds * self._count))
        self._release()

    def run(self, seconds: float, thread: int) -> Generator[simpy.Event, object, None]:
        """A process: thread number `thread` computes for `seconds` of one core."""
        left = coarse_ticks(seconds)
        slices = 0
        while left > 0:
            yield self._request(_priority(thread, slices))
            work = min(left, TIME_SLICE_S)
            missing = work
            while missing > _SHORTEST_EVENT_S:
                packets_before = self.packets_s
                yield simpy.Timeout(self._env, missing)
                # Catch up on what packets took from this core in the meantime; all cores carry equal parts of them.
                lost = (self.packets_s - packets_before) / self._count
                missing = whole_ticks(min(lost, (1 - _MIN_THREAD_SHARE) * missing))
            self._release()
            left -= work
            slices += 1

    def _request(self, priority: int) -> simpy.Event:
        """An event that fires when the thread has a core. The lowest `priority` is first; of equals, the oldest."""
        granted = simpy.Event(self._env)
        heappush(self._waiting, (priority, self._env.now, next(self._numbers), granted))
        self._grant()
        return granted

    def _release(self) -> None:
        """Free a core: for a thread that asks at this instant and is first, or else for one that waits."""
        self._free += 1
        if self._waiting:
            released = simpy.Event(self._env)
            released.callbacks.append(self._grant)
            released.succeed()

    def _grant(self, released: simpy.Event | None = None) -> None:
        if self._free and self._waiting:
            self._free -= 1
            heappop(self._waiting)[-1].succeed()


def _priority(thread: int, slices: int) -> int:
    """The thread that has had the fewest time slices is next.

    Break ties pseudo-randomly: rank order would correlate with leaf order. The draw depends on the thread alone, so
    that a change in one thread does not reshuffle all the others.
    """
    return (slices << 53) + (mix_int((thread << 20) + slices) >> 11)
