"""simpy's event loop, with timers that call a function: an event for each packet costs a third of a simpy timeout."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop
from typing import Any

import simpy
from simpy.events import NORMAL


class Clock(simpy.Environment):
    """A simpy environment. Timers and events that are due at the same time happen in the order of scheduling.

    `number` is that of the timer or event that happens now: what is due at the same time happens in their order.
    """

    number = -1

    def timers(self) -> tuple[list[Any], Iterator[int]]:
        """The heap of what is scheduled, and the numbers to come.

        After `heappush(heap, (time, NORMAL, next(numbers), call, argument))` the clock calls `call(argument, time)` at
        `time` [s]. This is like a simpy timeout, but nothing can wait for it or cancel it.
        """
        # simpy's own entries have four values. Entries never compare beyond the third.
        return self._queue, self._eid

    def step(self) -> None:
        """Run all timers that are due before the next event, then process that event."""
        queue: list[Any] = self._queue
        while queue and len(queue[0]) == 5:
            self._now, _, self.number, call, argument = heappop(queue)
            call(argument, self._now)
        if queue:
            time, priority, number, _ = queue[0]
            if priority == NORMAL:
                self.number = number
            elif time > self._now:
                self.number = -1  # ahead of all others
        super().step()
