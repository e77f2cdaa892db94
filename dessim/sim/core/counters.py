"""Bytes that links carried, by link class and over time: exact where rates are known, small however long the run.

While messages share links, every interval between two changes of rates is entered with the bytes that drained in it. A
batch that is alone on its links is one entry, at the average rate over its stages. That spreads its start-up time and
the pauses between its stages evenly. No byte is lost either way: the area under a class's rate is what it carried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.cluster.links import Links
from dessim.errors import PhysicsError

_MAX_INTERVALS = 2_000
"""The most intervals of a load; where there are more, they are averaged."""
_MAX_ENTRIES = 4 * _MAX_INTERVALS
"""Entries that are collected before they are merged into intervals."""
_NEGLIGIBLE = 1e-12
"""Relative to the largest rate, or to the end of the run: smaller differences are rounding errors."""
_MAX_IMBALANCE = 1e-8
"""Relative to the bytes sent and to what links could have carried: larger differences mean lost bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """Bytes/s of each link class as a step function: `rate[kind][i]` from `time[i]` to `time[i + 1]` [n + 1] seconds.

    `capacity` are the bytes/s that all links of a class carry together. Of the links inside servers, only those of
    servers that took part count. Classes that carried nothing are left out.
    """

    time: Floats
    rate: Mapping[str, Floats]
    capacity: Mapping[str, float]

    @classmethod
    def nothing(cls) -> Load:
        """The load of a run that sent nothing."""
        return cls(np.zeros(1), {}, {})

    def share(self, kind: str) -> Floats:
        """The utilisation of a class [n], from 0 to 1, per interval."""
        return self.rate[kind] / self.capacity[kind]

    def mean(self, kind: str) -> float:
        """The utilisation of a class over the whole run."""
        length = self.time[-1] - self.time[0]
        return float(self.share(kind) @ np.diff(self.time) / length) if length > 0 else 0.0

    def within(self, most: int) -> Load:
        """The same load in at most `most` intervals, averaged over intervals of equal length where there are more."""
        if len(self.time) <= most + 1:
            return self
        rates = np.stack(list(self.rate.values()), axis=1)
        time, rates = _averaged(self.time, rates, most)
        return Load(time, dict(zip(self.rate, rates.T, strict=True)), self.capacity)


class Counters:
    """`bytes_by_kind` [link classes] are the bytes that links carried so far; `solves` how often rates were solved."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._touched = np.zeros(len(links), dtype=bool)
        self._entries: list[tuple[float, float, Floats]] = []
        self.bytes_by_kind: Floats = np.zeros(len(links.kinds))
        self.solves = 0

    def touch(self, links: Ints | Sequence[int]) -> None:
        """Note that messages will cross `links`."""
        self._touched[links] = True

    def begin(self, links: Ints, size: Floats) -> None:
        """Note that messages start, which cross `links` and load each class with `size` [link classes] bytes."""
        self.touch(links)
        self.bytes_by_kind += size

    def carried(self, start: float, end: float, size: Floats) -> None:
        """Note that each class carried `size` [link classes] bytes from `start` to `end`, at a constant rate."""
        if end > start:
            self._entries.append((start, end, size))
        if len(self._entries) >= _MAX_ENTRIES:
            time, rate = _averaged(*_steps(self._entries), _MAX_INTERVALS)
            size_of = rate * np.diff(time)[:, None]
            self._entries = [
                (a, b, size) for a, b, size in zip(time[:-1].tolist(), time[1:].tolist(), size_of, strict=True)
            ]

    def burst(self, links: Ints, start: float, end: float, size: Floats) -> None:
        """Note that each class carried `size` [link classes] additional bytes from `start` to `end`, in a burst."""
        self.begin(links, size)
        self.carried(start, end, size)

    def load(self, until: float) -> Load:
        """The load from 0 to `until` [s].

        Raises PhysicsError if its area differs from the bytes of all messages.
        """
        if not self._entries:
            return Load.nothing()
        idle = np.zeros(len(self._links.kinds))
        time, rate = _averaged(*_steps([(0.0, until, idle), *self._entries]), _MAX_INTERVALS)
        capacity = self._capacity()
        imbalance = np.abs(np.diff(time) @ rate - self.bytes_by_kind)
        if (imbalance > _MAX_IMBALANCE * (self.bytes_by_kind + capacity * until)).any():
            raise PhysicsError("links carried other bytes than messages sent; please report this")
        used = [i for i in range(len(self._links.kinds)) if self.bytes_by_kind[i] > 0]
        names = self._links.kinds
        return Load(time, {names[i]: rate[:, i] for i in used}, {names[i]: float(capacity[i]) for i in used})

    def _capacity(self) -> Floats:
        """Bytes/s of each class; a server's links count only if the server took part."""
        links = self._links
        node_of = np.concatenate([layer.nodes() for layer in links.layers])
        node = np.maximum(node_of[links.src], node_of[links.dst])
        took_part = np.zeros(node_of.max(initial=0) + 2, dtype=bool)
        took_part[node[self._touched]] = True
        took_part[-1] = True  # the fabric
        counts = took_part[node]
        total: Floats = np.bincount(links.kind[counts], links.capacity[counts], len(links.kinds)).astype(np.float64)
        return total


def _steps(entries: list[tuple[float, float, Floats]]) -> tuple[Floats, Floats]:
    """Merge entries, which may overlap, into one step function: times [n + 1] and rates [n, link classes]."""
    starts, ends, sizes = zip(*entries, strict=True)
    begin = np.array(starts)
    end = np.array(ends)
    # Merge instants that differ by rounding errors; the bytes between them are negligible.
    tick = _NEGLIGIBLE * float(end.max())
    begin, end = np.round(begin / tick) * tick, np.round(end / tick) * tick
    lasts = end > begin
    begin, end = begin[lasts], end[lasts]
    rate = np.stack(sizes)[lasts] / (end - begin)[:, None]
    time, at = np.unique(np.concatenate([begin, end]), return_inverse=True)
    change = np.zeros((len(time), rate.shape[1]))
    np.add.at(change, at[: len(begin)], rate)
    np.subtract.at(change, at[len(begin) :], rate)
    level = np.cumsum(change, axis=0)[:-1]
    # Rounding errors remain where rates were added and subtracted again.
    return time, np.where(level > _NEGLIGIBLE * rate.max(axis=0), level, 0.0)


def _averaged(time: Floats, rate: Floats, most: int) -> tuple[Floats, Floats]:
    """The step function in at most `most` intervals of equal length, which carry the same bytes."""
    if len(time) <= most + 1:
        return time, rate
    carried = np.concatenate([np.zeros((1, rate.shape[1])), np.cumsum(rate * np.diff(time)[:, None], axis=0)])
    edges = np.linspace(time[0], time[-1], most + 1)
    at_edges = np.stack([np.interp(edges, time, column) for column in carried.T], axis=1)
    return edges, np.diff(at_edges, axis=0) / np.diff(edges)[:, None]
