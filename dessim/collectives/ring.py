"""Ring algorithms: reduce_scatter, all_gather, and all_reduce as the two in sequence.

Rank i sends S/n bytes to rank i+1 in every stage. reduce_scatter and all_gather take n-1 stages, all_reduce 2(n-1).
The ring is bandwidth-optimal, but its latency grows with n (Patarasuk and Yuan, 2009; NCCL's Ring).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from dessim.collectives.schedule import Layout, Stage


def ring_reduce_scatter(layout: Layout, size: float) -> Iterator[Stage]:
    """n-1 stages; rank r ends with chunk r reduced. In repetition t rank i sends chunk i - 1 - t."""
    n = layout.n
    if n > 1:
        yield _stage(n, size, lambda t: [[(i - 1 - t) % n] for i in range(n)], reduce=True)


def ring_all_gather(layout: Layout, size: float) -> Iterator[Stage]:
    """n-1 stages; in repetition t rank i sends chunk i - t: its own first, then the one that it received last."""
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
