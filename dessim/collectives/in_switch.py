"""Reduction in the switches: NVLS inside a node, SHARP across nodes, and both together.

A switch that sums combines one message from each of its ports into one; a switch that multicasts copies one message to
each port. The data of a group therefore crosses each link of a tree once, for any number of ranks n.

    nvls         Each rank owns 1/n of the data. reduce_scatter: it reads its share through the NVSwitch, which sums all
                 copies; every GPU sends S and receives S/n. all_gather: it multicasts its share; every GPU sends S/n
                 and receives S. all_reduce: both, pipelined in chunks so that both directions are always busy; each
                 carries S (1 + 1/n) instead of the ring's 2S (n-1)/n (NVIDIA, PTX ISA, multimem.ld_reduce and
                 multimem.st; NCCL src/device/all_reduce.h, NVLS)
    sharp        One tree over all ranks; each sends S up to the switch that joins all ranks, and receives S (Graham et
                 al., "Scalable Hierarchical Aggregation Protocol (SHArP)", COMHPC 2016)
    nvls_sharp   NVLS reduce_scatter in each node, SHARP along each rail on 1/g, NVLS all_gather; pipelined in chunks
                 (NCCL's NVLS with CollNet)

Left out: SHARP's limits on messages in flight and on trees per switch, and switches that sum more slowly than their
ports.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dessim.arrays import Ints
from dessim.cluster.routing.trees import Trees
from dessim.collectives.pipeline import Edges, chunks_for, pipelined
from dessim.collectives.schedule import Layout, Stage


def nvls_reduce_scatter(layout: Layout, size: float) -> Iterator[Stage]:
    """One stage: each rank reads the sum of its share."""
    yield from pipelined(("nvls", "reduce_scatter"), _node_sums(layout, start=0), size, lanes=layout.n, chunks=1)


def nvls_all_gather(layout: Layout, size: float) -> Iterator[Stage]:
    """One stage: each rank multicasts its share."""
    yield from pipelined(("nvls", "all_gather"), _node_multicasts(layout, start=0), size, lanes=layout.n, chunks=1)


def nvls_all_reduce(layout: Layout, size: float, chunks: int | None = None) -> Iterator[Stage]:
    """c + 1 stages; while one chunk is multicast, the next one is summed."""
    edges = Edges.join(_node_sums(layout, start=0), _node_multicasts(layout, start=1))
    yield from pipelined(("nvls", "all_reduce"), edges, size, layout.n, chunks_for(size, layout.n, chunks))


def sharp_all_reduce(layout: Layout, size: float) -> Iterator[Stage]:
    """One stage: switches sum packets as they pass."""
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
    """c + 2 stages: sums in the node, sums along the rails, and multicasts in the node work on successive chunks."""
    g = layout.per_node
    m = layout.n // g
    rails: Ints = np.arange(layout.n, dtype=np.int64).reshape(m, g).T
    rail_sums = _edges(layout, rails[:, 0], Trees.of(rails, rails), start=1)
    edges = Edges.join(_node_sums(layout, start=0), rail_sums, _node_multicasts(layout, start=2))
    yield from pipelined(("nvls_sharp", g), edges, size, g, chunks_for(size, g, chunks))


def _node_sums(layout: Layout, start: int) -> Edges:
    """One tree per rank. It brings the rank the sum of its share over all ranks of its node."""
    ranks, peers = _nodes(layout)
    return _edges(layout, ranks, Trees.of(peers, ranks[:, None]), start)


def _node_multicasts(layout: Layout, start: int) -> Edges:
    """One tree per rank. It carries the rank's share to all ranks of its node."""
    ranks, peers = _nodes(layout)
    return _edges(layout, ranks, Trees.of(ranks[:, None], peers), start)


def _nodes(layout: Layout) -> tuple[Ints, Ints]:
    """All ranks [n] and the members [n, g] of each rank's node; both empty if nodes have one rank."""
    g = layout.per_node
    ranks = np.arange(layout.n if g > 1 else 0, dtype=np.int64)
    return ranks, ranks[:, None] // g * g + np.arange(g)


def _edges(layout: Layout, first: Ints, trees: Trees, start: int) -> Edges:
    """An edge for each tree, in the lane of the local rank `first[i]`, whose share it carries."""
    count = len(first)
    return Edges(
        src=first,
        dst=first,
        start=np.full(count, start),
        lane=first % layout.per_node,
        reduce=np.full(count, False),  # the switch has summed already; the receiver stores
        trees=trees,
    )
