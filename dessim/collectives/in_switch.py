"""Reduction in the switches: NVLS inside a node, SHARP across nodes, and both together.

A switch that can sum takes one message from each of its ports and sends on one; a switch that can multicast takes one
and sends one to each. So the data of a group crosses each link of a tree once, whatever n.

    nvls         Each rank owns 1/n of the data. reduce_scatter: it reads its share through the NVSwitch, which sums all
                 copies; every GPU sends S and receives S/n. all_gather: it multicasts its share; every GPU sends S/n
                 and receives S. all_reduce: both, chunk after chunk, so that each direction is busy all the time:
                 S (1 + 1/n) a direction instead of the ring's 2S (n-1)/n (NVIDIA, PTX ISA, multimem.ld_reduce and
                 multimem.st; NCCL src/device/all_reduce.h, NVLS)
    sharp        One tree over all ranks; each sends S up to a switch that has seen all, and gets S back (Graham et al.,
                 "Scalable Hierarchical Aggregation Protocol (SHArP)", COMHPC 2016)
    nvls_sharp   NVLS reduce_scatter in each node, SHARP along each rail on 1/g, NVLS all_gather; pipelined in chunks
                 (NCCL's NVLS with CollNet)

Left out: SHARP's limits (messages in flight, trees a switch holds), and switches that sum slower than their ports.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dessim.cluster.routing.trees import Trees
from dessim.collectives.pipeline import Edges, chunks_for, pipelined
from dessim.collectives.schedule import Ints, Layout, Stage


def nvls_reduce_scatter(layout: Layout, size: float) -> Iterator[Stage]:
    """One stage."""
    yield from pipelined(("nvls", "reduce_scatter"), _node_sums(layout, 0), size, layout.n, 1)


def nvls_all_gather(layout: Layout, size: float) -> Iterator[Stage]:
    """One stage."""
    yield from pipelined(("nvls", "all_gather"), _node_casts(layout, 0), size, layout.n, 1)


def nvls_all_reduce(layout: Layout, size: float, chunks: int | None = None) -> Iterator[Stage]:
    """c + 1 stages; while one chunk is multicast, the next one is summed."""
    edges = Edges.join(_node_sums(layout, 0), _node_casts(layout, 1))
    yield from pipelined(("nvls", "all_reduce"), edges, size, layout.n, chunks_for(size, layout.n, chunks))


def sharp_all_reduce(layout: Layout, size: float) -> Iterator[Stage]:
    """One stage: packets are summed as they pass."""
    if layout.n < 2:
        return
    everyone = np.arange(layout.n, dtype=np.int64)[None, :]
    first = np.zeros(1, dtype=np.int64)
    yield Stage(
        pattern=("sharp",),
        src=first,
        dst=first,
        size=np.full(1, size),
        carries=lambda _: [[0]],
        pieces=1,
        trees=Trees.of(everyone, everyone),
    )


def nvls_sharp_all_reduce(layout: Layout, size: float, chunks: int | None = None) -> Iterator[Stage]:
    """c + 2 stages."""
    g, m = layout.per_node, layout.n // layout.per_node
    rails: Ints = np.arange(layout.n, dtype=np.int64).reshape(m, g).T
    rail = _edges(layout, rails[:, 0], Trees.of(rails, rails), 1)
    edges = Edges.join(_node_sums(layout, 0), rail, _node_casts(layout, 2))
    yield from pipelined(("nvls_sharp", g), edges, size, g, chunks_for(size, g, chunks))


def _node_sums(layout: Layout, start: int) -> Edges:
    """A tree a rank: its share from everyone in its node, to it."""
    ranks, peers = _nodes(layout)
    return _edges(layout, ranks, Trees.of(peers, ranks[:, None]), start)


def _node_casts(layout: Layout, start: int) -> Edges:
    """A tree a rank: its share from it to everyone in its node."""
    ranks, peers = _nodes(layout)
    return _edges(layout, ranks, Trees.of(ranks[:, None], peers), start)


def _nodes(layout: Layout) -> tuple[Ints, Ints]:
    """All ranks [n] and the members [n, g] of the node of each; nobody where there is nobody to talk to."""
    g = layout.per_node
    ranks = np.arange(layout.n if g > 1 else 0, dtype=np.int64)
    return ranks, ranks[:, None] // g * g + np.arange(g)


def _edges(layout: Layout, first: Ints, trees: Trees, start: int) -> Edges:
    """The switch has summed already when a message arrives, so the receiver stores it. Local rank l owns lane l."""
    count = len(first)
    return Edges(first, first, np.full(count, start), first % layout.per_node, np.full(count, False), trees)
