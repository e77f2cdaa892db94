"""Double binary tree: two binary trees over the same ranks, each for half of the data, pipelined in chunks.

In a binary tree half of the ranks are leaves and only receive. In two trees that have no inner rank in common except
the root, every rank can send as much as it receives: full bandwidth at logarithmic depth (Sanders, Speck and Traeff,
"Two-tree algorithms for full bandwidth broadcast, reduction and scan", Parallel Computing 35, 2009; NCCL 2.4's Tree).

Rank 0 is outside both trees and is the parent of their roots. Ranks 1 to n-1 form an in-order tree, in which a rank's
height is its number of trailing zero bits (NCCL src/graph/trees.cc, ncclGetBtree). The second tree is the mirror image
of the first if n is odd, and the first shifted by one if n is even, so that leaves (odd positions) become inner ranks.
An all_reduce sums chunks up both trees and sends each down again as soon as it is complete. With another root the trees
are the same on rotated ranks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dessim.arrays import Ints
from dessim.collectives.pipeline import Edges, chunks_for, pipelined
from dessim.collectives.schedule import Layout, Stage


def double_tree_all_reduce(layout: Layout, size: float, chunks: int | None = None) -> Iterator[Stage]:
    """Chunks move up and down at the same time, in c + 2 depth - 1 stages."""
    yield from _both_trees("all_reduce", layout.n, size, chunks, root=0, up=True, down=True)


def double_tree_reduce(layout: Layout, size: float, chunks: int | None = None, root: int = 0) -> Iterator[Stage]:
    """Chunks move up, in c + depth - 1 stages."""
    yield from _both_trees("reduce", layout.n, size, chunks, root, up=True, down=False)


def double_tree_broadcast(layout: Layout, size: float, chunks: int | None = None, root: int = 0) -> Iterator[Stage]:
    """Chunks move down, in c + depth - 1 stages."""
    yield from _both_trees("broadcast", layout.n, size, chunks, root, up=False, down=True)


def _both_trees(name: str, n: int, size: float, chunks: int | None, root: int, up: bool, down: bool) -> Iterator[Stage]:
    if n < 2:
        return
    first = parents(n)
    ranks = np.arange(n, dtype=np.int64)
    # For each rank of the first tree, the rank that has its position in the second.
    substitute = (n - ranks) % n if n % 2 else np.where(ranks == 0, 0, ranks % (n - 1) + 1)
    second = np.empty(n, dtype=np.int64)
    second[substitute] = substitute[first]
    child = np.tile(ranks[1:], 2)
    parent = np.concatenate([first[1:], second[1:]])
    depth = np.concatenate([_depths(first)[1:], _depths(second)[1:]])
    lane = np.repeat(np.arange(2, dtype=np.int64), n - 1)
    height = int(depth.max())
    child = (child + root) % n
    parent = (parent + root) % n
    adds = np.full(len(child), True)
    rising = Edges(src=child, dst=parent, start=height - depth, lane=lane, reduce=adds)
    falling = Edges(src=parent, dst=child, start=depth - 1 + (height if up else 0), lane=lane, reduce=~adds)
    edges = Edges.join(*([rising] if up else []), *([falling] if down else []))
    yield from pipelined(("double tree", name, root), edges, size, lanes=2, chunks=chunks_for(size, 2, chunks))


def parents(n: int) -> Ints:
    """The parent [n] of each rank in the in-order tree below rank 0; rank 0 is its own parent."""
    rank = np.arange(n, dtype=np.int64)
    bit = rank & -rank
    above = (rank ^ bit) | (bit << 1)
    return np.where(above < n, above, rank ^ bit)


def _depths(parent: Ints) -> Ints:
    """The number of edges [n] from each rank up to rank 0."""
    depth = np.zeros(len(parent), dtype=np.int64)
    above = np.arange(len(parent), dtype=np.int64)
    while above.any():
        depth += above > 0
        above = parent[above]
    return depth
