"""Rail-only: NIC r of every node is on rail r, and nothing but NVLink joins the rails.

Wang, Ghobadi, Shakeri, Zhang and Hasani, "Rail-only: A Low-Cost High-Performance Network for Training LLMs with
Trillion Parameters" (arXiv 2307.12169, 2023): a rail-optimised fabric without the spines between rails. FlowRequests to
another rail changes over before it leaves its node. A rail is one switch, or leaves and spines of its own.
"""

from __future__ import annotations

from dessim.cluster.fabrics.leaf_spine import LeafSpine, Tiers, join
from dessim.cluster.links import IntArray, LinkBuilder


def build(
    builder: LinkBuilder, node: IntArray, rail: IntArray, nodes_per_leaf: int, tiers: Tiers
) -> tuple[LeafSpine, IntArray]:
    """The fabric, and the vertex each NIC is attached to, which is on rail `rail` of node `node` [n_nics].

    Leaf l of rail r is `r * leaves a rail + l`.
    """
    leaf = rail * (int(node[-1]) // nodes_per_leaf + 1) + node // nodes_per_leaf
    return join(builder, tiers, "rail_only", leaf, node % nodes_per_leaf, rail_aware=True, parts=int(rail.max()) + 1)
