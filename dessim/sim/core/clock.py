"""simpy's event loop, with timers that call a function: an event for each packet costs a third of a simpy timeout."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, TypeVar

import simpy
from simpy.events import NORMAL

Argument = TypeVar("Argument")


class Clock(simpy.Environment):
    """A simpy environment. Timers and events that are due at the same time happen in the order of scheduling."""

    def call_at(self, time: float, call: Callable[[Argument, float], object], argument: Argument) -> None:
        """Call `call(argument, time)` at `time` [s]; like a simpy timeout, but nothing can wait for it or cancel it."""
        # simpy pops four values from its queue; an entry of five is a timer. Entries never compare beyond the third.
        entry: Any = (time, NORMAL, next(self._eid), call, argument)
        heappush(self._queue, entry)

    def step(self) -> None:
        """Run all timers that are due before the next event, then process that event."""
        queue: list[Any] = self._queue
        while queue and len(queue[0]) == 5:
            now, _, _, call, argument = heappop(queue)
            self._now = now
            call(argument, now)
        super().step()
