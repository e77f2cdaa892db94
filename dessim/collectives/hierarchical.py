"""Two-level algorithms: inside each node over NVLink, and across nodes along rails.

With g ranks per node and m nodes, rank = node * g + local. Ranks with the same `local` index form a rail. Across nodes
each GPU moves only its 1/g share through its own NIC, so all NICs of a node work together. NCCL achieves the same with
one ring per channel, or with PXN for all_to_all.

    reduce_scatter   a ring in the node on S, then a ring along the rail on S/g
    all_gather       the reverse
    all_reduce       reduce_scatter, then all_gather: in-node S, rail S/g, in-node S
    all_to_all       each rank gives each peer in its node the data for the peer's rail, then pairwise along the rails
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dessim.collectives.schedule import Layout, Stage, all_to_all_chunk


def hierarchical_reduce_scatter(layout: Layout, size: float) -> Iterator[Stage]:
    """Rank r ends with chunk r. In the node, chunks move in bundles: those of one rail, one for each node."""
    n = layout.n
    g = layout.per_node
    m = n // g
    yield _node_ring(n, g, size / g, reduce=True, shift=1)
    yield _rail_ring(n, g, size / g / m, reduce=True, shift=1)


def hierarchical_all_gather(layout: Layout, size: float) -> Iterator[Stage]:
    """The reverse of reduce_scatter: along the rail first, then bundles in the node."""
    n = layout.n
    g = layout.per_node
    m = n // g
    yield _rail_ring(n, g, size / g / m, reduce=False, shift=0)
    yield _node_ring(n, g, size / g, reduce=False, shift=0)


def hierarchical_all_reduce(layout: Layout, size: float) -> Iterator[Stage]:
    """2(g-1) stages of S/g in the node around 2(m-1) stages of S/n along the rails."""
    yield from hierarchical_reduce_scatter(layout, size)
    yield from hierarchical_all_gather(layout, size)


def hierarchical_all_to_all(layout: Layout, size: float) -> Iterator[Stage]:
    """g-1 stages of S/g in the node, then m-1 stages of S/m along the rails."""
    n = layout.n
    g = layout.per_node
    m = n // g
    node, local = np.divmod(np.arange(n, dtype=np.int64), g)
    for hop in range(1, g):
        # The peer's rail reaches the ranks with its local index in all nodes.
        yield Stage(
            pattern=("node shift", g, hop),
            src=node * g + local,
            dst=node * g + (local + hop) % g,
            size=np.full(n, size / g),
            carries=lambda _, hop=hop: [  # type: ignore[misc]
                [all_to_all_chunk(n, p * g + i, q * g + (i + hop) % g) for q in range(m)]
                for p in range(m)
                for i in range(g)
            ],
        )
    for hop in range(1, m):
        yield Stage(
            pattern=("rail shift", g, hop),
            src=node * g + local,
            dst=(node + hop) % m * g + local,
            size=np.full(n, size / m),
            carries=lambda _, hop=hop: [  # type: ignore[misc]
                [all_to_all_chunk(n, p * g + j, (p + hop) % m * g + i) for j in range(g)]
                for p in range(m)
                for i in range(g)
            ],
        )


def _node_ring(n: int, g: int, size: float, reduce: bool, shift: int) -> Stage:
    """A ring in every node; bundle l holds the chunks of local rank l of each node."""
    m = n // g
    node, local = np.divmod(np.arange(n, dtype=np.int64), g)
    return Stage(
        pattern=("node shift", g, 1),
        src=node * g + local,
        dst=node * g + (local + 1) % g,
        size=np.full(n, size),
        repeat=g - 1,
        reduce=reduce,
        carries=lambda t: [[q * g + (i - shift - t) % g for q in range(m)] for _ in range(m) for i in range(g)],
    )


def _rail_ring(n: int, g: int, size: float, reduce: bool, shift: int) -> Stage:
    """A ring along every rail, one chunk per message."""
    m = n // g
    node, local = np.divmod(np.arange(n, dtype=np.int64), g)
    return Stage(
        pattern=("rail shift", g, 1),
        src=node * g + local,
        dst=(node + 1) % m * g + local,
        size=np.full(n, size),
        repeat=m - 1,
        reduce=reduce,
        carries=lambda t: [[(p - shift - t) % m * g + i] for p in range(m) for i in range(g)],
    )
