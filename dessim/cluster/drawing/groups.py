"""Which servers of a cluster are drawn and which are folded: those that share leaves with node 0, and all others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.fabrics.fat_tree import FatTree
from dessim.cluster.fabrics.leaf_spine import LeafSpine
from dessim.cluster.graph import Cluster


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of nodes that share leaves: the group of node 0 is drawn, the others are folded.

    `nodes` and `leaves` are the sizes of the drawn group; `others` counts the other groups, with `other_nodes` nodes
    and `other_leaves` leaves in total. `word` is what a group is called and `leaf_word` what its leaves are called.
    `names` labels the drawn leaves. NIC i of node 0 is on drawn leaf `leaf_of_nic[i]`, all on the first if it is empty.
    `separate` says that the leaves are joined only by NVLink.
    """

    nodes: int
    leaves: int
    others: int
    other_nodes: int
    other_leaves: int
    word: str
    leaf_word: str
    names: tuple[str, ...] = ()
    leaf_of_nic: tuple[int, ...] = ()
    separate: bool = False

    @classmethod
    def of(cls, cluster: Cluster) -> Groups:
        """The groups of a cluster."""
        if isinstance(cluster.fabric, LeafSpine):
            return cls._around_leaves(cluster, cluster.fabric)
        return cls._around_first_switch(cluster)

    @classmethod
    def _around_leaves(cls, cluster: Cluster, fabric: LeafSpine) -> Groups:
        """The nodes on the leaves of node 0, and all others."""
        node_of_nic = cluster.wiring.node_of_nic()
        nics = cluster.node.nics
        leaves, leaf_of_nic = np.unique(fabric.leaf[:nics], return_inverse=True)
        nodes = cluster.n_nodes - len(np.unique(node_of_nic[~np.isin(fabric.leaf, leaves)]))
        other_leaves = fabric.leaves - len(leaves)
        by_rail = len(leaves) > 1
        rails = nics // cluster.node.trays
        names = [
            f"leaf{leaf}\nrail {i % rails}" if by_rail else f"leaf{leaf}" for i, leaf in enumerate(leaves.tolist())
        ]
        return cls(
            nodes=nodes,
            leaves=len(leaves),
            others=other_leaves // len(leaves),
            other_nodes=cluster.n_nodes - nodes,
            other_leaves=other_leaves,
            word="pod" if by_rail else "leaf",
            leaf_word="leaf",
            names=tuple(names),
            leaf_of_nic=tuple(leaf_of_nic.tolist()),
            separate=fabric.planes > 1,
        )

    @classmethod
    def _around_first_switch(cls, cluster: Cluster) -> Groups:
        """The nodes on the switch of node 0, and all others."""
        node_of_nic = cluster.wiring.node_of_nic()
        switch_of_nic = cluster.switch_of_nic()
        switch = int(switch_of_nic[0])
        layer = cluster.links.layer_of(switch)
        nodes = len(np.unique(node_of_nic[switch_of_nic == switch]))
        is_fat_tree = isinstance(cluster.fabric, FatTree)
        return cls(
            nodes=nodes,
            leaves=1,
            others=cluster.fabric.pods - 1 if isinstance(cluster.fabric, FatTree) else layer.count - 1,
            other_nodes=cluster.n_nodes - nodes,
            other_leaves=layer.count - 1,
            word="leaf" if is_fat_tree else layer.kind,
            leaf_word="leaf" if is_fat_tree else layer.kind,
            names=() if is_fat_tree else (layer.name(switch - layer.first),),
        )
