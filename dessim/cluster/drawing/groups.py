"""Which servers of a cluster are drawn and which are folded: those that share leaves with the first, and the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.fabrics.fat_tree import FatTree
from dessim.cluster.fabrics.leaf_spine import LeafSpine
from dessim.cluster.graph import Cluster


@dataclass(frozen=True, slots=True)
class Groups:
    """The nodes that share leaves: one group is drawn, the others are folded."""

    nodes: int
    """Nodes in the drawn group."""
    leaves: int
    """Leaves of the drawn group."""
    others: int
    other_nodes: int
    other_leaves: int
    word: str
    leaf_word: str
    names: tuple[str, ...] = ()
    of_nic: tuple[int, ...] = ()
    """On which of the drawn leaves each NIC of the drawn node is; all on the first unless it says so."""
    apart: bool = False
    """Whether nothing but NVLink joins the leaves."""

    @classmethod
    def of(cls, cluster: Cluster) -> Groups:
        fabric, n, wiring = cluster.fabric, cluster.n_nodes, cluster.wiring
        node, nics = wiring.node_of_nic(), cluster.node.nics
        if not isinstance(fabric, LeafSpine):
            # what the NICs of node 0 hang on, and what hangs there as well
            home = cluster.links.dst[wiring.nic_up + np.arange(len(node))]
            layer = next(
                layer for layer in cluster.links.layers if home[0] in range(layer.first, layer.first + layer.count)
            )
            inside, others = len(np.unique(node[home == home[0]])), layer.count - 1
            if isinstance(fabric, FatTree):
                return cls(inside, 1, fabric.pods - 1, n - inside, others, "leaf", "leaf")
            name = layer.name(int(home[0]) - layer.first)
            return cls(inside, 1, others, n - inside, others, layer.kind, layer.kind, (name,))
        mine, of_nic = np.unique(fabric.leaf[:nics], return_inverse=True)
        a_group = len(mine)
        inside = n - len(np.unique(node[~np.isin(fabric.leaf, mine)]))
        others, rails = (fabric.leaves - a_group) // a_group, nics // cluster.node.trays
        rail = a_group > 1
        names = tuple(f"leaf{leaf}" + f"\nrail {i % rails}" * rail for i, leaf in enumerate(mine.tolist()))
        word, more = "pod" if rail else "leaf", fabric.leaves - a_group
        return cls(
            inside, a_group, others, n - inside, more, word, "leaf", names, tuple(of_nic.tolist()), fabric.parts > 1
        )


def many(word: str) -> str:
    """The plural of what a fabric calls its switches."""
    return {"switch": "switches", "leaf": "leaves"}.get(word, f"{word}s")
