"""simpy's event loop, beside which a network moves its packets. As simpy events, packets would cost several times more.

Events and packets that are due at the same time happen in the order of scheduling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import simpy


class Clock(simpy.Environment):
    """A simpy environment that calls `advance` before every event, to move the packets that are due."""

    def __init__(self) -> None:
        super().__init__()
        self.advance: Callable[[], None] | None = None

    @property
    def numbers(self) -> Iterator[int]:
        """The next numbers: one for each event and packet, in the order of scheduling."""
        return self._eid

    @property
    def events(self) -> list[Any]:
        """The heap of simpy's events: tuples of time [s], priority, number and event."""
        queue: list[Any] = self._queue
        return queue

    def pass_to(self, now: float) -> None:
        """Set the time to `now` [s]. No event may be due earlier."""
        self._now = now

    def step(self) -> None:
        """Advance to the next event, and process it."""
        if self.advance is not None:
            self.advance()
        simpy.Environment.step(self)
