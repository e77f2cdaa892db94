"""Rail-optimised: NIC r of every node of a pod is on the pod's rail leaf r; spines join all leaves.

GPUs with the same place in their nodes meet on one leaf, so a collective that runs rail by rail stays under it. Traffic
between rails either crosses the spines, or (`rail_aware`) changes rail over NVLink first. Layout as in NVIDIA's DGX
SuperPOD reference architecture (RA-11333-001, H100): 32 nodes a scalable unit, 8 rail leaves each.
"""

from __future__ import annotations

import numpy as np

from dessim.cluster.fabrics.leaf_spine import LeafSpine, Tiers, join
from dessim.cluster.links import IntArray, LinkBuilder


def build(
    builder: LinkBuilder, node: IntArray, rail: IntArray, nodes_per_pod: int, tiers: Tiers, *, rail_aware: bool
) -> tuple[LeafSpine, IntArray]:
    """The fabric, and the vertex each NIC is attached to, which is on rail `rail` of node `node` [n_nics].

    Leaves are numbered pod by pod, then by rail; a rail that no node of a pod has gets no leaf there.
    """
    _, leaf = np.unique(node // nodes_per_pod * (rail.max() + 1) + rail, return_inverse=True)
    return join(builder, tiers, "rail_optimised", leaf, node % nodes_per_pod, rail_aware=rail_aware)
