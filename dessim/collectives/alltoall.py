"""all_to_all on one level: pairwise (one shift per stage) and direct (all messages together, as in gloo and NCCL).

For uneven exchanges `sizes[i, j]` is the number of bytes from rank i to rank j; without it each pair moves S/n.

Where some ranks send (or receive) more than others, but each in equal parts, the exchange is split in two: an even one
of the smallest total, then the `excess` of the other ranks. In NCCL and gloo all messages start together. The busiest
port is busy from beginning to end either way, so the time is the same unless switches above the NICs are the
bottleneck.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.collectives.schedule import Layout, Stage, all_to_all_chunk


def uneven_sizes(n: int, size: float, rng: np.random.Generator) -> Floats:
    """Random bytes [n, n] from each rank to each other, uniform in (0, 2 S/n); S = `size` is the mean per rank."""
    sizes = rng.uniform(0.0, 2 * size / n, (n, n))
    np.fill_diagonal(sizes, 0.0)
    return sizes


def pairwise_all_to_all(layout: Layout, size: float, sizes: Floats | None = None) -> Iterator[Stage]:
    """n-1 stages: in stage k rank i sends to rank i+k."""
    n = layout.n
    ranks = np.arange(n, dtype=np.int64)
    for hop in range(1, n):
        dst = (ranks + hop) % n
        yield Stage(
            pattern=("shift", hop) if sizes is None else (),
            src=ranks,
            dst=dst,
            size=np.full(n, size / n) if sizes is None else sizes[ranks, dst],
            carries=lambda _, hop=hop: [[all_to_all_chunk(n, i, (i + hop) % n)] for i in range(n)],  # type: ignore[misc]
        )


def excess(totals: Floats, received: bool) -> Iterator[Stage]:
    """The stage that follows an even exchange: the bytes that ranks send (or receive) beyond the smallest total.

    `totals[i]` are the bytes that rank i sends to all n ranks, itself included, in equal parts; with `received`, those
    that it receives from them.
    """
    n = len(totals)
    least = float(totals.min())
    busy = np.flatnonzero(totals > least)
    if not len(busy):
        return
    one, other = (ends.ravel() for ends in np.meshgrid(busy, np.arange(n), indexing="ij"))
    distinct = one != other
    one, other = one[distinct], other[distinct]
    yield Stage(
        pattern=("excess", received, busy.tobytes()),
        src=other if received else one,
        dst=one if received else other,
        size=(totals[one] - least) / n,
        continues=least > 0,
    )


def direct_all_to_all(layout: Layout, size: float, sizes: Floats | None = None) -> Iterator[Stage]:
    """One stage of n(n-1) messages, one for each pair of ranks in each direction."""
    n = layout.n
    if n < 2:
        return
    src, dst = _all_pairs(n)
    yield Stage(
        pattern=("all pairs",) if sizes is None else (),
        src=src,
        dst=dst,
        size=np.broadcast_to(size / n, len(src)) if sizes is None else sizes[src, dst],
        carries=lambda _: [[all_to_all_chunk(n, int(i), int(j))] for i, j in zip(src, dst, strict=True)],
    )


# Every exchange of a group has the same pairs.
@lru_cache(maxsize=4)  # 17 MB each for 1,024 ranks
def _all_pairs(n: int) -> tuple[Ints, Ints]:
    """The sender and the receiver of each message [n (n-1)], by sender."""
    src, dst = np.divmod(np.arange(n * n, dtype=np.int64), n)
    distinct = src != dst
    src, dst = src[distinct], dst[distinct]
    # All callers share the arrays.
    src.flags.writeable = False
    dst.flags.writeable = False
    return src, dst
