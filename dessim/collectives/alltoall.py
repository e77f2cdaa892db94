"""all_to_all on one level: pairwise (one shift per stage) and direct (all messages at once, as in gloo and NCCL).

For uneven exchanges `sizes[i, j]` is the number of bytes from rank i to rank j; without it each pair moves S/n.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dessim.arrays import Floats
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


def direct_all_to_all(layout: Layout, size: float, sizes: Floats | None = None) -> Iterator[Stage]:
    """One stage of n(n-1) messages, one for each pair of ranks in each direction."""
    n = layout.n
    if n < 2:
        return
    src, dst = np.divmod(np.arange(n * n, dtype=np.int64), n)
    distinct = src != dst
    src = src[distinct]
    dst = dst[distinct]
    yield Stage(
        pattern=("all pairs",) if sizes is None else (),
        src=src,
        dst=dst,
        size=np.full(len(src), size / n) if sizes is None else sizes[src, dst],
        carries=lambda _: [[all_to_all_chunk(n, int(i), int(j))] for i, j in zip(src, dst, strict=True)],
    )
