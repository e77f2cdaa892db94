"""Collectives with a root: broadcast, reduce, gather, scatter; flat, binomial tree, pipelined chain.

    flat       the root exchanges messages with all other ranks: one stage, n-1 messages through one link
    binomial   ceil(log2 n) stages; in stage k of a broadcast the 2**k ranks that have the data send it to as many more
    chain      a pipeline from rank to rank in chunks; bandwidth-optimal for large data (NCCL's ring broadcast)

Trees and chains are built over places v = (rank - root) mod n. Source: Chan, Heimlich, Purkayastha and van de Geijn,
"Collective communication: theory, practice, and experience", CCPE 19, 2007.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dessim.arrays import Ints
from dessim.collectives.pipeline import Edges, chunks_for, pipelined
from dessim.collectives.schedule import Layout, Stage


def flat_broadcast(layout: Layout, size: float, root: int = 0) -> Iterator[Stage]:
    """One stage: S bytes from the root to each other rank."""
    yield from _flat(layout.n, size, root, outward=True, reduce=False, shares=False)


def flat_reduce(layout: Layout, size: float, root: int = 0) -> Iterator[Stage]:
    """One stage: S bytes from each other rank to the root."""
    yield from _flat(layout.n, size, root, outward=False, reduce=True, shares=False)


def flat_scatter(layout: Layout, size: float, root: int = 0) -> Iterator[Stage]:
    """One stage: S/n bytes from the root to each other rank."""
    yield from _flat(layout.n, size / layout.n, root, outward=True, reduce=False, shares=True)


def flat_gather(layout: Layout, size: float, root: int = 0) -> Iterator[Stage]:
    """One stage: S/n bytes from each other rank to the root."""
    yield from _flat(layout.n, size / layout.n, root, outward=False, reduce=False, shares=True)


def binomial_broadcast(layout: Layout, size: float, root: int = 0) -> Iterator[Stage]:
    """ceil(log2 n) stages of S bytes."""
    for hop in _hops(layout.n):
        yield _binomial(layout.n, size, root, hop, outward=True, reduce=False, shares=False)


def binomial_reduce(layout: Layout, size: float, root: int = 0) -> Iterator[Stage]:
    """The broadcast in reverse: ceil(log2 n) stages of S bytes."""
    for hop in reversed(_hops(layout.n)):
        yield _binomial(layout.n, size, root, hop, outward=False, reduce=True, shares=False)


def binomial_scatter(layout: Layout, size: float, root: int = 0) -> Iterator[Stage]:
    """Stages of about S/2, S/4, ... bytes: place v sends to v + 2**k the shares of all places from there on."""
    for hop in reversed(_hops(layout.n)):
        yield _binomial(layout.n, size, root, hop, outward=True, reduce=False, shares=True)


def binomial_gather(layout: Layout, size: float, root: int = 0) -> Iterator[Stage]:
    """The scatter in reverse."""
    for hop in _hops(layout.n):
        yield _binomial(layout.n, size, root, hop, outward=False, reduce=False, shares=True)


def chain_broadcast(layout: Layout, size: float, chunks: int | None = None, root: int = 0) -> Iterator[Stage]:
    """c + n - 2 stages of S/c."""
    yield from _chain(layout.n, size, chunks, root, outward=True)


def chain_reduce(layout: Layout, size: float, chunks: int | None = None, root: int = 0) -> Iterator[Stage]:
    """c + n - 2 stages of S/c towards the root; each rank adds its own data."""
    yield from _chain(layout.n, size, chunks, root, outward=False)


def _hops(n: int) -> list[int]:
    """The powers of two below n: 1, 2, 4, ..."""
    return [1 << k for k in range((n - 1).bit_length())]


def _flat(n: int, size: float, root: int, outward: bool, reduce: bool, shares: bool) -> Iterator[Stage]:
    if n < 2:
        return
    others = (np.arange(1, n, dtype=np.int64) + root) % n
    hub = np.full(n - 1, root, dtype=np.int64)
    yield Stage(
        pattern=("flat", root, outward),
        src=hub if outward else others,
        dst=others if outward else hub,
        size=np.full(n - 1, size),
        reduce=reduce,
        carries=lambda _: [[int(rank)] if shares else [0] for rank in others],
        pieces=n if shares else 1,
    )


def _binomial(n: int, size: float, root: int, hop: int, outward: bool, reduce: bool, shares: bool) -> Stage:
    """The stage between places v and v + hop: for all v below hop or, with shares, all v that are multiples of 2 hop.

    With shares a message carries those of the subtree below v + hop, else the whole tensor.
    """
    near: Ints = np.arange(0, n - hop, 2 * hop, dtype=np.int64) if shares else np.arange(min(hop, n - hop))
    far = near + hop
    subtree = np.minimum(far + hop, n) - far
    near_rank = (near + root) % n
    far_rank = (far + root) % n
    return Stage(
        pattern=("binomial", root, hop, outward, shares),
        src=near_rank if outward else far_rank,
        dst=far_rank if outward else near_rank,
        size=np.asarray(subtree * (size / n), dtype=np.float64) if shares else np.full(len(near), size),
        reduce=reduce,
        carries=lambda _: [
            [(v + i + root) % n for i in range(count)] if shares else [0]
            for v, count in zip(far.tolist(), subtree.tolist(), strict=True)
        ],
        pieces=n if shares else 1,
    )


def _chain(n: int, size: float, chunks: int | None, root: int, outward: bool) -> Iterator[Stage]:
    place = np.arange(n - 1, dtype=np.int64)
    near = (place + root) % n
    far = (place + 1 + root) % n
    edges = Edges(
        src=near if outward else far,
        dst=far if outward else near,
        start=place if outward else place[::-1].copy(),
        lane=np.zeros(n - 1, dtype=np.int64),
        reduce=np.full(n - 1, not outward),
    )
    yield from pipelined(("chain", root, outward), edges, size, lanes=1, chunks=chunks_for(size, 1, chunks))
