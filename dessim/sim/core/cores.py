"""Cores of one machine that several ranks compute on, as processes of a host or of a lab do.

A rank's stream that computes is a thread: it fills at most one core. Where more threads compute than there are cores
they take turns, as long as a kernel lets one run on: that ranks are not done together is what lets some of them
communicate while others compute. Packets go before threads: what cores spend on carrying bytes
(`Transport.core_rate`) slows the threads. A thread that was waiting for a message (`Transport.host_overhead`) gets the
next core that is free, and waits for it where all compute. Left out: memory bandwidth and caches that threads share, a
thread's wish to stay where it is, and that packets wait for cores, too.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import simpy

from dessim.cluster.hashing import mix
from dessim.sim.core.ticks import coarse_ticks, whole_ticks

TURN = whole_ticks(4e-3)
"""Seconds that a thread runs on while others wait: a tick of Linux at 250 Hz, where most distributions have it; kernels
built for servers look at who else is ready no more often."""
_LEAST = 0.1
"""Of a core's speed: what packets leave to threads at least (the kernel puts off what would lock them out)."""
_DUST = 1e-9
"""Seconds that are not worth an event."""


class Cores:
    """`count` cores, and the seconds that they worked on packets."""

    def __init__(self, env: simpy.Environment, count: int) -> None:
        assert count > 0, "a machine has at least one core"
        self._env, self._count = env, count
        self._free = simpy.PriorityResource(env, capacity=count)
        self._packets_s = 0.0

    def carried(self, seconds: float) -> None:
        """A core has worked for so many `seconds` on packets."""
        self._packets_s += seconds

    def wake(self, seconds: float) -> Generator[simpy.Event, object, None]:
        """A process: a thread that waited goes on, which takes the whole machine `seconds`, a core as many times as
        long. It goes before threads that compute, but cuts nobody's turn short."""
        with self._free.request(priority=-1) as turn:
            yield turn
            yield self._env.timeout(whole_ticks(seconds * self._count))

    def run(self, seconds: float, thread: int) -> Generator[simpy.Event, object, None]:
        """A process: the thread with the number `thread` works for `seconds` of a core of its own."""
        left, turns = coarse_ticks(seconds), 0
        while left > 0:
            # The thread that had the fewest turns is next. Break ties pseudo-randomly: rank order would correlate with
            # leaf order. A thread draws the same lot whatever the others do.
            draw = np.array([(thread << 20) + turns], dtype=np.uint64)
            lot = int(mix(draw)[0] >> np.uint64(11))
            with self._free.request(priority=(turns << 53) + lot) as turn:
                yield turn
                part = missing = min(left, TURN)
                while missing > _DUST:
                    before = self._packets_s
                    yield self._env.timeout(missing)
                    # What packets took meanwhile, in equal parts of all cores, is made up for.
                    missing = whole_ticks(min((self._packets_s - before) / self._count, (1 - _LEAST) * missing))
                left, turns = left - part, turns + 1
