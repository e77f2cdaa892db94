"""Bruck's algorithms: all_gather and all_to_all in ceil(log2 n) stages, for any n.

In stage k every rank sends to the rank at distance 2**k. In all_gather it sends all shares that it holds and the
receiver lacks, which is bandwidth-optimal. In all_to_all it sends every block whose distance to its target has bit k
set, about S/2 per stage: fewer messages but more bytes than a direct exchange, which suits small sizes.

Source: Bruck, Ho, Kipnis, Upfal and Weathersby, "Efficient Algorithms for All-to-All Communications in Multiport
Message-Passing Systems", IEEE TPDS 8, 1997.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dessim.collectives.schedule import Layout, Stage, all_to_all_chunk


def bruck_all_gather(layout: Layout, size: float) -> Iterator[Stage]:
    """Stages of S/n, 2S/n, 4S/n, ... bytes: rank i holds the shares i, i+1, ... and sends them to rank i - 2**k."""
    n = layout.n
    ranks = np.arange(n, dtype=np.int64)
    hop = 1
    while hop < n:
        sent = min(hop, n - hop)
        yield Stage(
            pattern=("shift", n - hop),
            src=ranks,
            dst=(ranks - hop) % n,
            size=np.full(n, size / n * sent),
            carries=lambda _, sent=sent: [[(i + j) % n for j in range(sent)] for i in range(n)],  # type: ignore[misc]
        )
        hop *= 2


def bruck_all_to_all(layout: Layout, size: float) -> Iterator[Stage]:
    """A block at distance d from its target moves in stage k if bit k of d is set.

    Earlier stages have already moved it by the lower bits of d.
    """
    n = layout.n
    ranks = np.arange(n, dtype=np.int64)
    hop = 1
    while hop < n:
        moving = [d for d in range(n) if d & hop]
        yield Stage(
            pattern=("shift", hop),
            src=ranks,
            dst=(ranks + hop) % n,
            size=np.full(n, size / n * len(moving)),
            carries=lambda _, hop=hop, moving=moving: [  # type: ignore[misc]
                [all_to_all_chunk(n, (i - d % hop) % n, (i - d % hop + d) % n) for d in moving] for i in range(n)
            ],
        )
        hop *= 2
