"""Rail-only fabric: NIC r of every node is on rail r, and only NVLink joins the rails.

Wang, Ghobadi, Shakeri, Zhang and Hasani, "Rail-only: A Low-Cost High-Performance Network for Training LLMs with
Trillion Parameters" (arXiv 2307.12169, 2023): a rail-optimised fabric without the spines between rails. Traffic to
another rail changes rail over NVLink before it leaves its node. A rail is a single switch, or has leaves and spines.
"""

from __future__ import annotations

from dessim.cluster.fabrics.leaf_spine import LeafSpine, Tiers, join
from dessim.cluster.links import IntArray, LinkBuilder


def build(
    builder: LinkBuilder, node: IntArray, rail: IntArray, nodes_per_leaf: int, tiers: Tiers
) -> tuple[LeafSpine, IntArray]:
    """Add switches and links; return the fabric, and the vertex to which each NIC is attached.

    NIC i is on rail `rail[i]` of node `node[i]` [n_nics]. Leaf l of rail r is number `r * leaves_per_rail + l`.
    """
    leaves_per_rail = int(node[-1]) // nodes_per_leaf + 1
    leaf = rail * leaves_per_rail + node // nodes_per_leaf
    n_rails = int(rail.max()) + 1
    return join(builder, tiers, "rail_only", leaf, node % nodes_per_leaf, rail_aware=True, planes=n_rails)
