"""The collectives of PyTorch's gloo backend, as the trainer runs them.

    all_reduce      a ring in two phases towards lower ranks; each chunk is cut into at least two segments of at most
                    1 MiB, of which two are in flight: a rank sends a segment when it has received and added the one
                    before the last
    reduce_scatter  all pairs together in both directions; then each rank adds up its n chunks
    all_gather      a ring towards higher ranks; each chunk is cut into two halves that are in flight together. Two
                    ranks swap their chunks directly
    broadcast       a tree in which a rank sends to all of its children together, distant ones included
    all_to_all      all pairs together, but on some connections one direction waits for the other

reduce_scatter and the all_gather of two ranks are the trainer's own versions (des_ref/comm/direct.py). PyTorch's
reduce_scatter runs an all_reduce of the whole tensor; its all_gather of two ranks sends the halves one after the other
and copies them twice.

A phase begins when the previous one has ended, so nothing overlaps with the last segments of a phase.

In all_to_all one direction may wait for the other because a sender waits for the receiver's "ready" on the same
connection. The rank that arrives later finds its peer ready. If it posts its send to that peer before its receive, the
data leaves immediately, and its own "ready" is queued behind it. In round d, rank i posts the send to rank i+d and
then the receive from rank i-d; so it posts the receive from rank i+d in round n-d. The order in which ranks arrive
differs from call to call; by default one pseudo-random order is simulated (`ArrivalTimes`).

Sources: allreduce.cc, allgather.cc, alltoall.cc, broadcast.cc and transport/tcp/pair.cc of gloo, ProcessGroupGloo.cpp
of PyTorch 2.13.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.collectives.alltoall import direct_all_to_all
from dessim.collectives.schedule import ArrivalTimes, Carries, Layout, Stage, all_to_all_chunk

SEGMENT = 1 << 20
"""Maximum bytes of a segment (gloo/allreduce.h, kMaxSegmentSize)."""
NAME = "gloo"
"""The name of these algorithms in a transport's list."""
SEGMENTS_IN_FLIGHT = 2
"""Segments of an all_reduce that a rank waits for at the same time."""
_MAX_CHAINED_RANKS = 48
"""Up to this number of ranks, each message of an all_to_all or broadcast waits only for the one that it depends on.

In larger groups a message waits for a whole stage, which is faster to simulate.
"""


def gloo_all_reduce(layout: Layout, size: float) -> Iterator[Stage]:
    """Two phases of n-1 times the number of segment pairs in a chunk; each stage moves one pair."""
    n = layout.n
    pairs = -(-segments(n, size) // SEGMENTS_IN_FLIGHT)
    yield from _ring(n, size, pairs, towards=-1, first=1, reduce=True)
    yield from _ring(n, size, pairs, towards=-1, first=0, reduce=False)


def segments(n: int, size: float) -> int:
    """The number of segments in a rank's chunk, in an all_reduce of `size` bytes over n ranks."""
    return max(SEGMENTS_IN_FLIGHT, int(np.ceil(np.ceil(size / SEGMENT) / n)))


def gloo_reduce_scatter(layout: Layout, size: float) -> Iterator[Stage]:
    """One stage of n(n-1) messages; every rank posts all of its receives before it sends."""
    for stage in direct_all_to_all(layout, size):
        yield replace(stage, reduce=True, carries=_one_piece_each(stage.dst), pieces=layout.n)


def gloo_all_gather(layout: Layout, size: float) -> Iterator[Stage]:
    """n-1 stages of two halves; for two ranks one stage of two messages."""
    if layout.n == 2:
        (stage,) = direct_all_to_all(layout, size)
        yield replace(stage, carries=_one_piece_each(stage.src), pieces=2)
        return
    yield from _ring(layout.n, size, 1, towards=1, first=0, reduce=False)


def gloo_all_to_all(
    layout: Layout, size: float, sizes: Floats | None = None, arrivals: ArrivalTimes | None = None
) -> Iterator[Stage]:
    """One stage of n(n-1) messages, some of which wait for the message in the opposite direction.

    A pair of ranks begins when both have arrived. Groups of more than 48 ranks take two stages: the messages that wait
    for no other, then the rest.
    """
    n = layout.n
    if n < 2:
        return
    arrivals = arrivals or ArrivalTimes()
    arrives = arrivals.seconds(n)
    position = arrivals.order(n)
    turn, src = np.divmod(np.arange(n, n * n, dtype=np.int64), n)
    dst = (src + turn) % n
    # A message waits for the opposite one if its receiver arrives later and posts its own send before its receive.
    waits = (position[dst] > position[src]) & (n - turn <= n / 2)
    order = np.argsort(waits, kind="stable")
    src = src[order]
    dst = dst[order]
    waits = waits[order]
    everything = np.arange(len(src))
    message_of = np.full((n, n), -1)
    message_of[src, dst] = everything
    after = np.where(waits, message_of[dst, src], -1)
    chained = n <= _MAX_CHAINED_RANKS
    for messages in [everything] if chained else [everything[~waits], everything[waits]]:
        stage_src = src[messages]
        stage_dst = dst[messages]
        whole = len(messages) == len(src)
        yield Stage(
            pattern=("gloo all pairs", arrivals, len(messages), int(messages[0])) if sizes is None else (),
            src=stage_src,
            dst=stage_dst,
            size=np.full(len(messages), size / n) if sizes is None else sizes[stage_src, stage_dst],
            carries=_one_piece_each(all_to_all_chunk(n, stage_src, stage_dst)),
            after=after if whole else None,
            begins=np.maximum(arrives[stage_src], arrives[stage_dst]) if whole else None,
        )


def gloo_broadcast(layout: Layout, size: float, root: int = 0) -> Iterator[Stage]:
    """One stage in which a rank sends to all of its children as soon as it has the data.

    The tree is over places, (rank - root) mod n; see `children`. Groups of more than 48 ranks take one stage per level
    of the tree instead; the level of a place is the number of ones in its binary form.
    """
    n = layout.n
    levels: list[list[tuple[int, int]]] = [[] for _ in range((n - 1).bit_length())]
    for place in range(n):
        for child in children(n, place):
            levels[place.bit_count()].append((place, child))
    if n <= _MAX_CHAINED_RANKS:
        levels = [[edge for level in levels for edge in level]] if n > 1 else []
    for number, edges in enumerate(levels):
        if not edges:
            continue
        src, dst = np.array(edges, dtype=np.int64).T
        message_to = {place: message for message, place in enumerate(dst.tolist())}
        yield Stage(
            pattern=("gloo broadcast", root, number),
            src=(src + root) % n,
            dst=(dst + root) % n,
            size=np.full(len(src), size),
            carries=_one_piece_each(np.zeros(len(src), dtype=np.int64)),
            pieces=1,
            after=np.array([message_to.get(place, -1) for place in src.tolist()]) if n <= _MAX_CHAINED_RANKS else None,
        )


def children(n: int, place: int) -> list[int]:
    """The places, of n, that `place` sends to in a broadcast: those with one more bit set, above its highest bit."""
    bits = range(place.bit_length(), (n - 1).bit_length())
    return [place | 1 << bit for bit in bits if place | 1 << bit < n]


def _ring(n: int, size: float, pairs: int, *, towards: int, first: int, reduce: bool) -> Iterator[Stage]:
    """One phase of a ring: (n-1) * `pairs` repetitions, in each of which every rank sends one pair of segments.

    Rank i sends the chunks `i + first`, `i + first - towards`, ... in turn, each as `pairs` pairs.
    """
    if n < 2:
        return
    ranks = np.arange(n, dtype=np.int64)
    total = (n - 1) * pairs
    # The last repetition is a stage without overlap: the next phase waits until it has ended.
    for start, repeat, in_flight in ((0, total - 1, SEGMENTS_IN_FLIGHT), (total - 1, 1, 1)):
        if repeat:
            yield Stage(
                pattern=("shift", towards),
                src=ranks,
                dst=(ranks + towards) % n,
                size=np.full(n, size / (n * pairs)),
                repeat=repeat,
                reduce=reduce,
                carries=_ring_pieces(n, pairs, towards, first, start),
                pieces=n * pairs,
                in_flight=in_flight,
            )


def _ring_pieces(n: int, pairs: int, towards: int, first: int, start: int) -> Carries:
    def carries(repetition: int) -> list[list[int]]:
        step, pair = divmod(start + repetition, pairs)
        return [[((rank + first - towards * step) % n) * pairs + pair] for rank in range(n)]

    return carries


def _one_piece_each(pieces: Ints) -> Carries:
    """Message i carries piece `pieces[i]`."""
    return lambda _: [[piece] for piece in pieces.tolist()]
