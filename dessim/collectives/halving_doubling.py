"""Recursive halving and doubling: partners at distances that are powers of two.

    reduce_scatter   halving: exchange half of what is left with a partner, log2(p) times
    all_gather       doubling: exchange all one has, log2(p) times (also called recursive doubling)
    all_reduce       one after the other: bandwidth-optimal, 2 log2(p) stages; or `recursive_doubling`: exchange
                     everything log2(p) times, half the stages, log2(p) times the bytes

Where n is no power of two, p is the nearest one below and the n - p ranks too many are folded in: each of the first
2(n - p) even ranks hands its data to the odd rank after it and gets the result back at the end (Rabenseifner, 2004;
Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH", IJHPCA 19, 2005).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dessim.collectives.schedule import Floats, Ints, Layout, Stage


def halving_doubling_all_reduce(layout: Layout, size: float) -> Iterator[Stage]:
    """S/2, S/4, ... S/p, and back."""
    folded = _Folded.of(layout.n, shares=False)
    whole = list(range(folded.p))
    yield from folded.fold(size, lambda _: whole, folded.p)
    yield from folded.halve(size)
    yield from folded.double(size)
    yield from folded.unfold(size, lambda _: whole, folded.p)


def recursive_doubling_all_reduce(layout: Layout, size: float) -> Iterator[Stage]:
    """S in every stage, log2(p) of them."""
    folded = _Folded.of(layout.n, shares=False)
    yield from folded.fold(size, lambda _: [0], 1)
    for distance in folded.distances():
        yield folded.exchange(distance, np.full(folded.p, size), lambda v, d: [0], True, 1)
    yield from folded.unfold(size, lambda _: [0], 1)


def halving_doubling_reduce_scatter(layout: Layout, size: float) -> Iterator[Stage]:
    """S/2, S/4, ... S/p; a folded rank gets its own share at the end."""
    folded = _Folded.of(layout.n, shares=True)
    yield from folded.fold(size, lambda _: list(range(layout.n)), layout.n)
    yield from folded.halve(size)
    yield from folded.unfold(size / layout.n, lambda rank: [rank], layout.n)


def halving_doubling_all_gather(layout: Layout, size: float) -> Iterator[Stage]:
    """S/p, 2S/p, ... S/2; a folded rank hands in its share first and gets all others at the end."""
    n = layout.n
    folded = _Folded.of(n, shares=True)
    yield from folded.fold(size / n, lambda rank: [rank], n, reduce=False)
    yield from folded.double(size)
    yield from folded.unfold(size / n * (n - 1), lambda rank: [r for r in range(n) if r != rank], n)


@dataclass(frozen=True, slots=True)
class _Folded:
    """p = 2**k of n ranks, and where each of the p blocks of data begins, in pieces: `offset` [p + 1].

    `shares`: there is a piece for each of the n ranks, and a rank that stands for two has a block of two.
    """

    n: int
    p: int
    offset: Ints

    @classmethod
    def of(cls, n: int, shares: bool) -> _Folded:
        p = 1 << (n.bit_length() - 1)
        block = np.arange(p + 1, dtype=np.int64)
        return cls(n, p, block + np.minimum(block, n - p) if shares else block)

    @property
    def pieces(self) -> int:
        return int(self.offset[-1])

    def distances(self) -> list[int]:
        """1, 2, 4, ... p/2."""
        return [1 << i for i in range(self.p.bit_length() - 1)]

    def rank(self, v: Ints) -> Ints:
        """The rank that plays number v of the p."""
        return np.where(v < self.n - self.p, 2 * v + 1, v + self.n - self.p)

    def halve(self, size: float) -> Iterator[Stage]:
        """Number v keeps the half it is in and sends the half its partner is in."""
        for distance in reversed(self.distances()):
            starts = self._aligned(np.arange(self.p) ^ distance, distance)
            yield self._blocks(distance, starts, size, reduce=True)

    def double(self, size: float) -> Iterator[Stage]:
        """Number v sends all it has: the blocks of its aligned run of `distance`."""
        for distance in self.distances():
            yield self._blocks(distance, self._aligned(np.arange(self.p), distance), size, reduce=False)

    def exchange(
        self, distance: int, size: Floats, carries: Callable[[int, int], list[int]], reduce: bool, pieces: int
    ) -> Stage:
        """Every v of the p sends to v XOR distance."""
        v = np.arange(self.p, dtype=np.int64)
        return Stage(
            pattern=("exchange", distance),
            src=self.rank(v),
            dst=self.rank(v ^ distance),
            size=size,
            reduce=reduce,
            carries=lambda _: [carries(i, distance) for i in range(self.p)],
            pieces=pieces,
        )

    def fold(
        self, size: float, pieces_of: Callable[[int], list[int]], pieces: int, reduce: bool = True
    ) -> Iterator[Stage]:
        """Even ranks hand in what `pieces_of` says."""
        yield from self._pairs(size, pieces_of, pieces, 0, reduce)

    def unfold(self, size: float, pieces_of: Callable[[int], list[int]], pieces: int) -> Iterator[Stage]:
        """Even ranks get what `pieces_of` says."""
        yield from self._pairs(size, pieces_of, pieces, 1, False)

    def _pairs(
        self, size: float, pieces_of: Callable[[int], list[int]], pieces: int, sender: int, reduce: bool
    ) -> Iterator[Stage]:
        extra = np.arange(self.n - self.p, dtype=np.int64)
        if len(extra):
            yield Stage(
                pattern=("pairs", sender),
                src=2 * extra + sender,
                dst=2 * extra + 1 - sender,
                size=np.full(len(extra), size),
                reduce=reduce,
                carries=lambda _: [pieces_of(2 * i) for i in range(len(extra))],
                pieces=pieces,
            )

    def _aligned(self, v: Ints, distance: int) -> Ints:
        return v - v % distance

    def _blocks(self, distance: int, starts: Ints, size: float, reduce: bool) -> Stage:
        low, high = self.offset[starts], self.offset[starts + distance]
        return self.exchange(
            distance,
            np.asarray((high - low) * (size / self.pieces), dtype=np.float64),
            lambda v, _: list(range(low[v], high[v])),
            reduce,
            self.pieces,
        )
