"""Rail-optimised fabric: NIC r of every node of a pod is on the pod's rail leaf r, and spines join all leaves.

GPUs with the same place in their nodes share a leaf, so a collective that runs rail by rail crosses no spine. Traffic
between rails either crosses the spines or (`rail_aware`) changes rail over NVLink first. The layout is that of NVIDIA's
DGX SuperPOD reference architecture (RA-11333-001, H100): scalable units of 32 nodes with 8 rail leaves each.
"""

from __future__ import annotations

import numpy as np

from dessim.cluster.fabrics.leaf_spine import LeafSpine, Tiers, join
from dessim.cluster.links import IntArray, LinkBuilder


def build(
    builder: LinkBuilder, node: IntArray, rail: IntArray, nodes_per_pod: int, tiers: Tiers, *, rail_aware: bool
) -> tuple[LeafSpine, IntArray]:
    """Add switches and links; return the fabric, and the vertex to which each NIC is attached.

    NIC i is on rail `rail[i]` of node `node[i]` [n_nics]. Leaves are numbered pod by pod, then by rail. A rail on which
    no node of a pod has a NIC gets no leaf there.
    """
    _, leaf = np.unique(node // nodes_per_pod * (rail.max() + 1) + rail, return_inverse=True)
    return join(builder, tiers, "rail_optimised", leaf, node % nodes_per_pod, rail_aware=rail_aware)
