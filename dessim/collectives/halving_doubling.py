"""Recursive halving and doubling: ranks exchange data with partners at distances that are powers of two.

    reduce_scatter      halving: exchange half of the remaining data with a partner, log2(p) times
    all_gather          doubling: exchange all data held so far, log2(p) times (also called recursive doubling)
    all_reduce          halving, then doubling: bandwidth-optimal, in 2 log2(p) stages
    recursive_doubling  all_reduce that exchanges the whole tensor log2(p) times: half the stages, but S log2(p) bytes

If n is not a power of two, p is the largest one below n, and n - p ranks are folded in: of the first 2(n - p) ranks,
each even one sends its data to the odd rank after it and receives the result at the end. The p ranks that remain are
numbered v = 0 ... p-1.

Source: Rabenseifner, 2004; Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in
MPICH", IJHPCA 19, 2005.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.collectives.schedule import Layout, Stage


def halving_doubling_all_reduce(layout: Layout, size: float) -> Iterator[Stage]:
    """Stages of S/2, S/4, ... S/p bytes, then the same in reverse order."""
    folded = _Folded.of(layout.n, shares=False)
    whole = list(range(folded.p))
    yield from folded.fold(size, lambda _: whole, folded.p)
    yield from folded.halve(size)
    yield from folded.double(size)
    yield from folded.unfold(size, lambda _: whole, folded.p)


def recursive_doubling_all_reduce(layout: Layout, size: float) -> Iterator[Stage]:
    """log2(p) stages of S bytes."""
    folded = _Folded.of(layout.n, shares=False)
    yield from folded.fold(size, lambda _: [0], 1)
    for distance in folded.distances():
        yield folded.exchange(distance, np.full(folded.p, size), lambda v, d: [0], reduce=True, pieces=1)
    yield from folded.unfold(size, lambda _: [0], 1)


def halving_doubling_reduce_scatter(layout: Layout, size: float) -> Iterator[Stage]:
    """Stages of S/2, S/4, ... S/p bytes; a folded rank receives its own share at the end."""
    folded = _Folded.of(layout.n, shares=True)
    yield from folded.fold(size, lambda _: list(range(layout.n)), layout.n)
    yield from folded.halve(size)
    yield from folded.unfold(size / layout.n, lambda rank: [rank], layout.n)


def halving_doubling_all_gather(layout: Layout, size: float) -> Iterator[Stage]:
    """Stages of S/p, 2S/p, ... S/2 bytes; a folded rank sends its share first and receives all others at the end."""
    n = layout.n
    folded = _Folded.of(n, shares=True)
    yield from folded.fold(size / n, lambda rank: [rank], n, reduce=False)
    yield from folded.double(size)
    yield from folded.unfold(size / n * (n - 1), lambda rank: [r for r in range(n) if r != rank], n)


@dataclass(frozen=True, slots=True)
class _Folded:
    """n ranks folded to p = 2**k; block v of the data is the pieces from `offset[v]` to `offset[v + 1]` [p + 1]."""

    n: int
    p: int
    offset: Ints

    @classmethod
    def of(cls, n: int, shares: bool) -> _Folded:
        """Fold n ranks. With `shares` there is one piece per rank, and a rank that stands for two has a block of two.

        Otherwise each of the p blocks is one piece.
        """
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
        """The rank with number v of the p."""
        return np.where(v < self.n - self.p, 2 * v + 1, v + self.n - self.p)

    def halve(self, size: float) -> Iterator[Stage]:
        """v keeps the half that contains v and sends the half that contains its partner."""
        for distance in reversed(self.distances()):
            starts = self._aligned(np.arange(self.p) ^ distance, distance)
            yield self._blocks(distance, starts, size, reduce=True)

    def double(self, size: float) -> Iterator[Stage]:
        """v sends all blocks that it holds, its aligned run of `distance` blocks."""
        for distance in self.distances():
            yield self._blocks(distance, self._aligned(np.arange(self.p), distance), size, reduce=False)

    def exchange(
        self, distance: int, size: Floats, carries: Callable[[int, int], list[int]], reduce: bool, pieces: int
    ) -> Stage:
        """Every v sends `size[v]` bytes, the pieces `carries(v, distance)`, to v XOR distance."""
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
        """Each even rank of a folded pair sends `pieces_of(rank)` to the odd one."""
        yield from self._pairs(size, pieces_of, pieces, sender=0, reduce=reduce)

    def unfold(self, size: float, pieces_of: Callable[[int], list[int]], pieces: int) -> Iterator[Stage]:
        """Each even rank of a folded pair receives `pieces_of(rank)` from the odd one."""
        yield from self._pairs(size, pieces_of, pieces, sender=1, reduce=False)

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
        """v sends the `distance` blocks from block `starts[v]` on."""
        low = self.offset[starts]
        high = self.offset[starts + distance]
        return self.exchange(
            distance,
            size=np.asarray((high - low) * (size / self.pieces), dtype=np.float64),
            carries=lambda v, _: list(range(low[v], high[v])),
            reduce=reduce,
            pieces=self.pieces,
        )
