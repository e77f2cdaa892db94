"""Cores of one machine that several ranks compute on, as processes of a host or of a lab do.

A rank's stream that computes is a thread: it fills at most one core. Where more threads compute than there are cores,
all get the same share of them (a fair scheduler over times much longer than its time slice). Left out: what the kernel
spends on the network, memory bandwidth and caches that threads share, a thread's wish to stay where it is.
"""

from __future__ import annotations

from typing import Protocol


class Sharer(Protocol):
    """Who computes on the cores."""

    def turn(self) -> None:
        """The share has changed."""
        ...


class Cores:
    """`count` cores, and how many threads compute on them now."""

    def __init__(self, count: int) -> None:
        assert count > 0, "a machine has at least one core"
        self.count = count
        self._threads = 0
        self._sharers: list[Sharer] = []

    @property
    def share(self) -> float:
        """Of one core, for each thread that computes."""
        return min(1.0, self.count / self._threads) if self._threads else 1.0

    def join(self, sharer: Sharer) -> None:
        """From now on it hears when the share changes."""
        self._sharers.append(sharer)

    def begin(self, threads: int) -> None:
        """So many threads start to compute (negative: are done)."""
        before = self.share
        self._threads += threads
        if self.share != before:
            for sharer in self._sharers:
                sharer.turn()
