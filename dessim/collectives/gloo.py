"""What gloo runs: its own rings, its own broadcast, and an all_to_all whose connections are busy one way at a time.
And what the trainer runs where those of PyTorch are poor: a reduce_scatter that all_reduces the whole, and an
all_gather of two ranks whose halves take turns and are copied twice (des_ref/comm/direct.py).

    all_reduce      ring in two phases towards lower ranks, each chunk in segments of 1 MiB at most and two at least;
                    two are under way: a rank sends a segment when it has received, and added, the one before the last
    reduce_scatter  every pair at once, both ways; then each rank adds up its n chunks
    all_gather      ring towards higher ranks, each chunk in two halves that are under way together; two ranks send each
                    other their chunks at once
    broadcast       a tree in which a rank sends to all of its children at once, the far ones included
    all_to_all      every pair at once, but some send to each other one after the other

A phase begins when the one before is over: the last segments of a phase hide nothing.

Why one after the other: who sends waits until the receiver has said that it is ready, on the same connection. A rank
that comes later than another finds it ready; if it posts its send to it before its receive from it, it sends at once,
and that it is ready itself is queued behind its data. all_to_all posts the send to rank i+d in turn d and the receive
from there in turn n-d, the send first where they are the same turn. Who comes later differs from call to call; here an
order of ranks that follows no pattern stands for all of them.

Sources: allreduce.cc, allgather.cc, alltoall.cc, broadcast.cc and transport/tcp/pair.cc of gloo, ProcessGroupGloo.cpp
of PyTorch 2.13.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dessim.collectives.alltoall import direct_all_to_all
from dessim.collectives.schedule import Carries, Coming, Floats, Ints, Layout, Stage, all_to_all_chunk

SEGMENT = 1 << 20
"""Bytes of a segment at most (gloo/allreduce.h, kMaxSegmentSize)."""
NAME = "gloo"
"""Of these algorithms, in a transport."""
UNDER_WAY = 2
"""Segments of an all_reduce that a rank waits for at a time."""
_FOLLOWED = 48
"""Ranks up to which the messages of an all_to_all are followed one by one; of more, all first ways are awaited."""


def gloo_all_reduce(layout: Layout, size: float) -> Iterator[Stage]:
    """Segments travel in pairs: `pairs` for each chunk, one pair a stage."""
    n = layout.n
    pairs = -(-segments(n, size) // UNDER_WAY)
    yield from _ring(n, size, pairs, towards=-1, first=1, reduce=True)
    yield from _ring(n, size, pairs, towards=-1, first=0, reduce=False)


def segments(n: int, size: float) -> int:
    """How many of an all_reduce of `size` bytes make up a rank's chunk."""
    return max(UNDER_WAY, int(np.ceil(np.ceil(size / SEGMENT) / n)))


def gloo_reduce_scatter(layout: Layout, size: float) -> Iterator[Stage]:
    """One stage of n(n-1) messages: all ranks say that they are ready before they send."""
    for stage in direct_all_to_all(layout, size):
        yield replace(stage, reduce=True, carries=_these(stage.dst), pieces=layout.n)


def gloo_all_gather(layout: Layout, size: float) -> Iterator[Stage]:
    """n-1 stages of two halves; of two ranks one stage of two messages, and both are ready before they send."""
    if layout.n == 2:
        (stage,) = direct_all_to_all(layout, size)
        yield replace(stage, carries=_these(stage.src), pieces=2)
        return
    yield from _ring(layout.n, size, 1, towards=1, first=0, reduce=False)


def gloo_all_to_all(
    layout: Layout, size: float, sizes: Floats | None = None, coming: Coming | None = None
) -> Iterator[Stage]:
    """One stage of n(n-1) messages, some of which wait for their opposite. Two exchange as soon as both have come."""
    n = layout.n
    if n < 2:
        return
    coming = coming or Coming()
    at, came = coming.at(n), coming.rank(n)
    turn, src = np.divmod(np.arange(n, n * n, dtype=np.int64), n)
    dst = (src + turn) % n
    waits = (came[dst] > came[src]) & (n - turn <= n / 2)  # for who comes later and sends to it first
    order = np.argsort(waits, kind="stable")
    src, dst, waits = src[order], dst[order], waits[order]
    number = np.full((n, n), -1)
    number[src, dst] = every = np.arange(len(src))
    after = np.where(waits, number[dst, src], -1)
    for messages in [every] if n <= _FOLLOWED else [every[~waits], every[waits]]:
        a, b = src[messages], dst[messages]
        yield Stage(
            pattern=("gloo all pairs", coming, len(messages), int(messages[0])) if sizes is None else (),
            src=a,
            dst=b,
            size=np.full(len(a), size / n) if sizes is None else sizes[a, b],
            carries=_these(all_to_all_chunk(n, a, b)),
            after=after if len(messages) == len(src) else None,
            begins=np.maximum(at[a], at[b]) if len(messages) == len(src) else None,
        )


def gloo_broadcast(layout: Layout, size: float, root: int = 0) -> Iterator[Stage]:
    """Ranks whose place (rank - root) mod n has k ones in binary send to every place with a one more, above their
    highest, once they have the data themselves; of many ranks all that have k ones at the same time."""
    n = layout.n
    levels: list[list[tuple[int, int]]] = [[] for _ in range((n - 1).bit_length())]
    for place in range(n):
        for child in children(n, place):
            levels[place.bit_count()].append((place, child))
    if n <= _FOLLOWED:
        levels = [[edge for level in levels for edge in level]] if n > 1 else []
    for number, edges in enumerate(levels):
        if not edges:
            continue
        src, dst = np.array(edges, dtype=np.int64).T
        comes = {v: message for message, v in enumerate(dst.tolist())}
        yield Stage(
            pattern=("gloo broadcast", root, number),
            src=(src + root) % n,
            dst=(dst + root) % n,
            size=np.full(len(src), size),
            carries=_these(np.zeros(len(src), dtype=np.int64)),
            pieces=1,
            after=np.array([comes.get(v, -1) for v in src.tolist()]) if n <= _FOLLOWED else None,
        )


def children(n: int, place: int) -> list[int]:
    """Places that one of n sends to in a broadcast."""
    bits = range(place.bit_length(), (n - 1).bit_length())
    return [place | 1 << bit for bit in bits if place | 1 << bit < n]


def _ring(n: int, size: float, pairs: int, *, towards: int, first: int, reduce: bool) -> Iterator[Stage]:
    """In repetition t rank i passes on pair t of those from chunk `i + first` on, against the ring's direction."""
    if n < 2:
        return
    ranks = np.arange(n, dtype=np.int64)
    total = (n - 1) * pairs
    for start, repeat, under_way in ((0, total - 1, UNDER_WAY), (total - 1, 1, 1)):
        if repeat:
            yield Stage(
                pattern=("shift", towards),
                src=ranks,
                dst=(ranks + towards) % n,
                size=np.full(n, size / (n * pairs)),
                repeat=repeat,
                reduce=reduce,
                carries=_pairs(ranks, n, pairs, towards, first, start),
                pieces=n * pairs,
                in_flight=under_way,
            )


def _pairs(ranks: Ints, n: int, pairs: int, towards: int, first: int, start: int) -> Carries:
    def carries(repetition: int) -> list[list[int]]:
        chunk, pair = divmod(start + repetition, pairs)
        return [[((rank + first - towards * chunk) % n) * pairs + pair] for rank in ranks.tolist()]

    return carries


def _these(pieces: Ints) -> Carries:
    """Message i carries piece `pieces[i]`."""
    return lambda _: [[piece] for piece in pieces.tolist()]
