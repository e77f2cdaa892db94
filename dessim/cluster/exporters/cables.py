"""The switches of a cluster and the cables between them, one entry for each pair of joined switches.

A link of a cluster is a bundle of cables with their payload rate. Fabrics of leaves and spines also state the number of
cables and their efficiency, so these cables have the rate on the wire; in other fabrics a bundle is one cable with the
payload rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.fabrics.fat_tree import FatTree
from dessim.cluster.fabrics.leaf_spine import LeafSpine
from dessim.cluster.graph import Cluster
from dessim.cluster.parts import Link
from dessim.errors import UsageError


@dataclass(frozen=True, slots=True)
class Cable:
    """`count` cables between switches `a` < `b` (vertex ids), each with `rate` in bytes/s and `latency` in seconds."""

    a: int
    b: int
    count: int
    rate: float
    latency: float


def switches(cluster: Cluster) -> list[int]:
    """The switches, in the order of their vertex ids."""
    between = cluster.links.src[: cluster.wiring.first_server_link]
    vertices: list[int] = np.unique(np.concatenate([cluster.switch_of_nic(), between])).tolist()
    return vertices


def cables(cluster: Cluster) -> list[Cable]:
    """The cables between switches. Raises UsageError where the two directions of one differ."""
    links = cluster.links
    kinds = _kinds_of_cables(cluster)
    rate_of: dict[tuple[int, int], float] = {}
    for link in range(cluster.wiring.first_server_link):
        rate_of[int(links.src[link]), int(links.dst[link])] = float(links.capacity[link])
    listed = []
    for link in range(cluster.wiring.first_server_link):
        a = int(links.src[link])
        b = int(links.dst[link])
        if rate_of.get((b, a)) != rate_of[a, b]:
            raise UsageError(
                f"{cluster.name}: the two directions of {links.name(link)} differ, and a cable has one rate"
            )
        if a < b:
            part, count = kinds.get(links.kinds[links.kind[link]], (None, 1))
            efficiency = part.efficiency if part else 1.0
            listed.append(Cable(a, b, count, rate_of[a, b] / count / efficiency, float(links.latency[link])))
    return listed


def _kinds_of_cables(cluster: Cluster) -> dict[str, tuple[Link | None, int]]:
    """Kind of link -> the part of its cables and their number."""
    fabric = cluster.fabric
    if isinstance(fabric, FatTree):
        tree = fabric.tree
        leaf = (tree.uplink, tree.links_per_spine)
        core = (tree.core_uplink, tree.links_per_core)
        return {"leaf_up": leaf, "leaf_down": leaf, "spine_up": core, "spine_down": core}
    if isinstance(fabric, LeafSpine):
        uplink = (fabric.uplink, fabric.links_per_spine)
        return {"leaf_up": uplink, "leaf_down": uplink}
    return {}
