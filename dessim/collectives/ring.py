"""Ring algorithms: reduce_scatter, all_gather, and all_reduce as one after the other.

Rank i only ever sends to rank i+1, S/n bytes a stage. reduce_scatter and all_gather take n-1 stages, all_reduce 2(n-1):
bandwidth-optimal, latency grows with n (Patarasuk and Yuan, 2009; what NCCL calls Ring).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from dessim.collectives.schedule import Layout, Stage


def ring_reduce_scatter(layout: Layout, size: float) -> Iterator[Stage]:
    """Rank r ends with chunk r reduced. In repetition t rank i passes chunk i - 1 - t on."""
    n = layout.n
    if n > 1:
        yield _stage(n, size, lambda t: [[(i - 1 - t) % n] for i in range(n)], reduce=True)


def ring_all_gather(layout: Layout, size: float) -> Iterator[Stage]:
    """In repetition t rank i passes on chunk i - t, which it got the repetition before (its own at first)."""
    n = layout.n
    if n > 1:
        yield _stage(n, size, lambda t: [[(i - t) % n] for i in range(n)], reduce=False)


def ring_all_reduce(layout: Layout, size: float) -> Iterator[Stage]:
    """2(n-1) stages of S/n."""
    yield from ring_reduce_scatter(layout, size)
    yield from ring_all_gather(layout, size)


def _stage(n: int, size: float, carries: Callable[[int], list[list[int]]], reduce: bool) -> Stage:
    ranks = np.arange(n, dtype=np.int64)
    return Stage(
        pattern=("shift", 1),
        src=ranks,
        dst=(ranks + 1) % n,
        size=np.full(n, size / n),
        repeat=n - 1,
        reduce=reduce,
        carries=carries,
    )
