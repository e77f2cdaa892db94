"""What links carried, by class and over time: exact where rates are known, kept small however long the run.

While messages share links, every interval between two changes of rates is entered with the bytes that drained in it. A
batch that is alone on its links is entered at once, as the average over its stages, so that its start-up time and its
pauses between stages are spread evenly. Either way no byte is lost: the area under a class's rate is what it carried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.cluster.links import Links
from dessim.errors import PhysicsError

_MOST = 2_000  # intervals kept; beyond, neighbours are averaged
_LOOSE = 4 * _MOST  # entries collected before they are put in order
_NOTHING = 1e-12  # of the largest rate
_LOST = 1e-8  # of what was sent, and of what the links could have carried


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """Bytes/s of each link class as a step function: `rate[kind][i]` from `time[i]` to `time[i + 1]` [n + 1] seconds.

    `capacity` are the bytes/s that all links of a class carry together: those of the servers that took part, and of the
    whole fabric. Classes that carried nothing are left out.
    """

    time: Floats
    rate: Mapping[str, Floats]
    capacity: Mapping[str, float]

    @classmethod
    def nothing(cls) -> Load:
        """Nothing was carried."""
        return cls(np.zeros(1), {}, {})

    def share(self, kind: str) -> Floats:
        """The utilisation of a class, 0 to 1, an interval each."""
        return self.rate[kind] / self.capacity[kind]

    def mean(self, kind: str) -> float:
        """The utilisation of a class over the whole run."""
        length = self.time[-1] - self.time[0]
        return float(self.share(kind) @ np.diff(self.time) / length) if length > 0 else 0.0

    def within(self, most: int) -> Load:
        """The same in at most `most` intervals, equally long ones where they are averages."""
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

    def begin(self, links: Ints, size: Floats) -> None:
        """Messages set out over `links` that will load each class with `size` [link classes] bytes."""
        self._touched[links] = True
        self.bytes_by_kind += size

    def carried(self, start: float, end: float, size: Floats) -> None:
        """Each class carried `size` [link classes] bytes from `start` to `end`, at one rate."""
        if end > start:
            self._entries.append((start, end, size))
        if len(self._entries) >= _LOOSE:
            time, rate = _averaged(*_steps(self._entries), _MOST)
            size_of = rate * np.diff(time)[:, None]
            self._entries = [
                (a, b, size) for a, b, size in zip(time[:-1].tolist(), time[1:].tolist(), size_of, strict=True)
            ]

    def burst(self, links: Ints, start: float, end: float, size: Floats) -> None:
        """Each class carried `size` [link classes] bytes more from `start` to `end`, ahead of its rate."""
        self.begin(links, size)
        self.carried(start, end, size)

    def load(self, until: float) -> Load:
        """The step function of what was carried, from 0 to `until`.

        Raises PhysicsError where its area is not what messages had to send: bytes would be lost or made up.
        """
        if not self._entries:
            return Load.nothing()
        idle = np.zeros(len(self._links.kinds))
        time, rate = _averaged(*_steps([(0.0, until, idle), *self._entries]), _MOST)
        capacity = self._capacity()
        off = np.abs(np.diff(time) @ rate - self.bytes_by_kind)
        if (off > _LOST * (self.bytes_by_kind + capacity * until)).any():
            raise PhysicsError("links carried other bytes than messages sent; please report this")
        used = [i for i in range(len(self._links.kinds)) if self.bytes_by_kind[i] > 0]
        names = self._links.kinds
        return Load(time, {names[i]: rate[:, i] for i in used}, {names[i]: float(capacity[i]) for i in used})

    def _capacity(self) -> Floats:
        """Of each class: of a server's links only where the server took part."""
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
    """Entries that may overlap as one step function: times [n + 1] and rates [n, link classes]."""
    starts, ends, sizes = zip(*entries, strict=True)
    begin, end = np.array(starts), np.array(ends)
    # Instants that only rounding tells apart are one; what went between them is nothing beside the rest.
    tick = _NOTHING * float(end.max())
    begin, end = np.round(begin / tick) * tick, np.round(end / tick) * tick
    lasts = end > begin
    begin, end = begin[lasts], end[lasts]
    rate = np.stack(sizes)[lasts] / (end - begin)[:, None]
    time, at = np.unique(np.concatenate([begin, end]), return_inverse=True)
    change = np.zeros((len(time), rate.shape[1]))
    np.add.at(change, at[: len(begin)], rate)
    np.subtract.at(change, at[len(begin) :], rate)
    level = np.cumsum(change, axis=0)[:-1]
    # What rounding leaves of rates that came and went is not a rate.
    return time, np.where(level > _NOTHING * rate.max(axis=0), level, 0.0)


def _averaged(time: Floats, rate: Floats, most: int) -> tuple[Floats, Floats]:
    """A step function in at most `most` intervals that carry the same bytes."""
    if len(time) <= most + 1:
        return time, rate
    carried = np.concatenate([np.zeros((1, rate.shape[1])), np.cumsum(rate * np.diff(time)[:, None], axis=0)])
    edges = np.linspace(time[0], time[-1], most + 1)
    at_edges = np.stack([np.interp(edges, time, column) for column in carried.T], axis=1)
    return edges, np.diff(at_edges, axis=0) / np.diff(edges)[:, None]
