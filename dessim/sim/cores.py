"""Cores of one machine that several ranks compute on, as processes of a host or of a lab do.

A rank's stream that computes is a thread: it fills at most one core. Where more threads compute than there are cores
they take turns, as long as a kernel lets one run on: that ranks are not done together is what lets some of them
communicate while others compute. Packets go before threads: what cores spend on carrying bytes
(`Transport.core_rate`) slows the threads. Left out: memory bandwidth and caches that threads share, a thread's wish to
stay where it is, and that packets wait for cores, too.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import simpy

from dessim.cluster.hashing import mix

TURN = 4e-3
"""Seconds that a thread runs on while others wait: a tick of Linux at 250 Hz, where most distributions have it; kernels
built for servers look at who else is ready no more often."""
_LEAST = 0.1
"""Of a core's speed: what packets leave to threads at least (the kernel puts off what would lock them out)."""


class Cores:
    """`count` cores, and how many of them packets keep busy now."""

    def __init__(self, env: simpy.Environment, count: int) -> None:
        assert count > 0, "a machine has at least one core"
        self._env, self._count = env, count
        self._free = simpy.PriorityResource(env, capacity=count)
        self._packets, self._asked = 0.0, 0

    def carry(self, cores: float) -> None:
        """From now on packets keep so many cores busy."""
        self._packets = cores

    @property
    def speed(self) -> float:
        """Of a thread that has a core, 1 where no packets do."""
        return max(1 - self._packets / self._count, _LEAST)

    def run(self, seconds: float) -> Generator[simpy.Event, object, None]:
        """A process: a thread works for `seconds` of a core of its own."""
        left, turns = seconds, 0
        while left > 0:
            # Next is who had fewest turns; else nobody's order: one of ranks would be one of leaves, too.
            self._asked += 1
            lot = int(mix(np.array([self._asked], dtype=np.uint64))[0] >> np.uint64(11))
            with self._free.request(priority=(turns << 53) + lot) as turn:
                yield turn
                speed = self.speed
                part = min(left, TURN * speed)
                yield self._env.timeout(part / speed)
                left, turns = left - part, turns + 1
