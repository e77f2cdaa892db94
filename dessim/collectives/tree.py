"""Double binary tree: two binary trees over the same ranks, each for half of the data, pipelined in chunks.

In a binary tree half of the ranks are leaves and only receive. Two trees in which no rank but the root is inside both
let every rank send what it receives: full bandwidth at logarithmic depth (Sanders, Speck and Traeff, "Two-tree
algorithms for full bandwidth broadcast, reduction and scan", Parallel Computing 35, 2009; NCCL 2.4's Tree).

Rank 0 stands outside and is the parent of both roots. The others, 1..n-1, form an in-order tree: a rank's height is its
number of trailing zero bits (NCCL src/graph/trees.cc, ncclGetBtree). The second tree is the mirror image where n is odd
and the first shifted by one where n is even, so that odd positions (leaves) become even ones. An all_reduce sums up
both trees and, as soon as a chunk is complete, sends it down again. Other roots are the same trees on rotated ranks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dessim.collectives.pipeline import Edges, chunks_for, pipelined
from dessim.collectives.schedule import Ints, Layout, Stage


def double_tree_all_reduce(layout: Layout, size: float, chunks: int | None = None) -> Iterator[Stage]:
    """Up and down at once; c + 2 depth - 1 stages."""
    yield from _both_trees("all_reduce", layout.n, size, chunks, 0, up=True, down=True)


def double_tree_reduce(layout: Layout, size: float, chunks: int | None = None, root: int = 0) -> Iterator[Stage]:
    """Up only; c + depth - 1 stages."""
    yield from _both_trees("reduce", layout.n, size, chunks, root, up=True, down=False)


def double_tree_broadcast(layout: Layout, size: float, chunks: int | None = None, root: int = 0) -> Iterator[Stage]:
    """Down only; c + depth - 1 stages."""
    yield from _both_trees("broadcast", layout.n, size, chunks, root, up=False, down=True)


def _both_trees(name: str, n: int, size: float, chunks: int | None, root: int, up: bool, down: bool) -> Iterator[Stage]:
    if n < 2:
        return
    first = parents(n)
    ranks = np.arange(n, dtype=np.int64)
    # Where each rank of the second tree stands in the first.
    place = (n - ranks) % n if n % 2 else np.where(ranks == 0, 0, ranks % (n - 1) + 1)
    second = np.empty(n, dtype=np.int64)
    second[place] = place[first]
    child = np.tile(ranks[1:], 2)
    parent = np.concatenate([first[1:], second[1:]])
    depth = np.concatenate([_depths(first)[1:], _depths(second)[1:]])
    lane = np.repeat(np.arange(2, dtype=np.int64), n - 1)
    height = int(depth.max())
    child, parent = (child + root) % n, (parent + root) % n
    flags = np.full(len(child), True)
    rising = Edges(child, parent, height - depth, lane, flags)
    falling = Edges(parent, child, depth - 1 + (height if up else 0), lane, ~flags)
    edges = Edges.join(*([rising] if up else []), *([falling] if down else []))
    yield from pipelined(("double tree", name, root), edges, size, 2, chunks_for(size, 2, chunks))


def parents(n: int) -> Ints:
    """The parent [n] of each rank in the in-order tree below rank 0; rank 0 is its own."""
    rank = np.arange(n, dtype=np.int64)
    bit = rank & -rank
    above = (rank ^ bit) | (bit << 1)
    return np.where(above < n, above, rank ^ bit)


def _depths(parent: Ints) -> Ints:
    depth = np.zeros(len(parent), dtype=np.int64)
    above = np.arange(len(parent), dtype=np.int64)
    while above.any():
        depth += above > 0
        above = parent[above]
    return depth
