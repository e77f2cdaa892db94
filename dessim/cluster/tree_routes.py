"""Routes of tree messages: the links that a message through summing switches loads.

A tree message travels from all its senders up to a common switch, is summed on the way, and travels down to all its
receivers. Each link between switches carries it once. Inside a node the tree is the NVSwitch with the members' NVLinks.
Across nodes every member uses its own NIC; members that share a NIC each have a message on it. The part between
switches is the union of the routes from the senders' leaves to the first receiver's leaf, and the reverse of such
routes down to the receivers' leaves. On leaf-spine fabrics this loads each link as a tree rooted at a spine would; with
split routing there is one such tree per spine, and each carries an equal stripe of the message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dessim.cluster.graph import Cluster
from dessim.cluster.links import FloatArray, IntArray
from dessim.cluster.node import NodeLinks
from dessim.cluster.routing.policy import FlowRequests, Routing
from dessim.cluster.routing.routes import Routes, assemble
from dessim.cluster.routing.trees import Trees

TREE_KINDS = ("single_switch", "leaf_spine", "rail_optimised", "fat_tree", "nvlink_domain")
"""Fabrics on which the routes from many senders to one receiver form a tree. On other fabrics a reduction would need a
spanning tree that routing does not provide."""


def sums_in_node(cluster: Cluster) -> bool:
    """Return whether the NVSwitches of all nodes can reduce."""
    return all(node.nvswitch is not None and node.nvswitch.reduces for node in cluster.nodes)


def sums_in_fabric(cluster: Cluster) -> bool:
    """Return whether the switches between nodes can reduce and any set of GPUs has a common switch above it."""
    switch = cluster.fabric.switch
    return switch is not None and switch.reduces and cluster.kind in TREE_KINDS


def tree_routes(cluster: Cluster, trees: Trees, refuse: bool = True) -> Routes:
    """Return the links of each tree message, in the form in which `Cluster.routes` returns those of ordinary messages.

    Raises ValueError where switches that a message needs cannot sum, and ClusterError where a link on its route is
    down, unless `refuse` is False.
    """
    m = len(trees)
    members = _Members(
        trees, np.repeat(np.arange(m), np.diff(trees.up_at)), np.repeat(np.arange(m), np.diff(trees.down_at))
    )
    home = cluster.node_of(trees.up[trees.up_at[:-1]])
    leaves_node = np.zeros(m, dtype=bool)
    for message, gpu in ((members.up_message, trees.up), (members.down_message, trees.down)):
        leaves_node[message[cluster.node_of(gpu) != home[message]]] = True
    if not sums_in_node(cluster) and not leaves_node.all():
        raise ValueError(f"the nodes of {cluster.name} have no switch that sums")
    if not sums_in_fabric(cluster) and leaves_node.any():
        raise ValueError(f"the switches of {cluster.name} do not sum")
    loads = _TreeLoads(cluster, m)
    _add_inside_nodes(loads, members, ~leaves_node)
    if leaves_node.any():
        _add_across_nodes(loads, members, leaves_node)
    routes = loads.routes()
    if refuse:
        cluster.refuse_down(routes, trees.up[trees.up_at[:-1]], trees.down[trees.down_at[:-1]])
    return routes


@dataclass(frozen=True, slots=True, eq=False)
class _Members:
    """Tree messages, and the message number of each sender `trees.up` and of each receiver `trees.down`."""

    trees: Trees
    up_message: IntArray
    down_message: IntArray


class _TreeLoads:
    """Collects which message crosses which link with which weight, and adds up the latency of each message."""

    def __init__(self, cluster: Cluster, n_messages: int) -> None:
        self.cluster = cluster
        self.member_entries: list[tuple[IntArray, FloatArray]] = []
        self.shared_entries: list[tuple[IntArray, FloatArray]] = []
        self.latency = np.zeros(n_messages)

    def add_member_links(
        self, message: IntArray, gpu: IntArray, links_of: Callable[[NodeLinks, IntArray], list[IntArray]]
    ) -> None:
        """Add the links that belong to single members: `links_of` lists those of each GPU, hop by hop.

        Each of these links carries a separate message. The latency of a message grows by that of its slowest member.
        """
        slowest = np.zeros(len(self.latency))
        for kind, rows in self.cluster.wiring.by_kind(gpu):
            row_message = message[rows]
            hops = links_of(kind, gpu[rows])
            np.maximum.at(slowest, row_message, sum(self.cluster.links.latency[hop] for hop in hops))
            self.member_entries += [(self._key(row_message, hop), np.ones(len(row_message))) for hop in hops]
        self.latency += slowest

    def add_shared_links(self, message: IntArray, link: IntArray, weight: FloatArray) -> None:
        """Add links between switches. A link that is named several times for a message carries the message once."""
        self.shared_entries.append((self._key(message, link), weight))

    def routes(self) -> Routes:
        keys, weights = (np.concatenate(column) for column in zip(*self.member_entries, strict=True))
        if self.shared_entries:
            shared_keys, shared_weights = (np.concatenate(column) for column in zip(*self.shared_entries, strict=True))
            once, first = np.unique(shared_keys, return_index=True)
            keys = np.concatenate([keys, once])
            weights = np.concatenate([weights, shared_weights[first]])
        key, position = np.unique(keys, return_inverse=True)
        flow, link = np.divmod(key, len(self.cluster.links))
        total: FloatArray = np.bincount(position, weights).astype(np.float64)
        return Routes(flow, link, total, self.latency, np.ones(len(flow)))

    def _key(self, message: IntArray, link: IntArray) -> IntArray:
        """Message and link as one number."""
        key: IntArray = message * len(self.cluster.links) + link
        return key


def _add_inside_nodes(loads: _TreeLoads, members: _Members, inside: IntArray) -> None:
    """Add the NVLinks of the messages marked in `inside` [m], whose members are all in one node."""
    trees = members.trees
    up = inside[members.up_message]
    down = inside[members.down_message]
    loads.add_member_links(
        members.up_message[up], trees.up[up], lambda kind, gpu: [kind.nvlink_up + gpu - kind.block.first_gpu]
    )
    loads.add_member_links(
        members.down_message[down], trees.down[down], lambda kind, gpu: [kind.nvlink_down + gpu - kind.block.first_gpu]
    )


def _add_across_nodes(loads: _TreeLoads, members: _Members, across: IntArray) -> None:
    """Add the links of the messages marked in `across` [m], which leave their node."""
    cluster = loads.cluster
    wiring = cluster.wiring
    trees = members.trees
    is_sender = across[members.up_message]
    is_receiver = across[members.down_message]
    sender_message = members.up_message[is_sender]
    receiver_message = members.down_message[is_receiver]
    senders = trees.up[is_sender]
    receivers = trees.down[is_receiver]
    loads.add_member_links(sender_message, senders, NodeLinks.out)
    loads.add_member_links(receiver_message, receivers, NodeLinks.into)
    # The root is the leaf of the first receiver, given as one of the NICs on it.
    root_nic = wiring.nic_of(trees.down[trees.down_at[:-1]])
    # All leaves must agree on the root, so a tree follows destination-based routes, or is striped over the spines.
    routing = Routing("split" if cluster.routing.policy == "split" else "static")
    climb = np.zeros(len(trees))
    for message, nic, downward in (
        (sender_message, wiring.nic_of(senders), False),
        (receiver_message, wiring.nic_of(receivers), True),
    ):
        message, nic = _one_nic_per_leaf(cluster, message, nic)
        requests = FlowRequests(nic, root_nic[message], np.ones(len(nic)), np.zeros(len(nic), dtype=np.int64))
        routes = assemble(len(nic), cluster.across(requests, routing), cluster.links)
        links = _opposite_direction(cluster, routes.link) if downward else routes.link
        loads.add_shared_links(message[routes.flow], links, routes.weight)
        if not downward:
            np.maximum.at(climb, message, routes.latency)
    loads.latency += climb


def _one_nic_per_leaf(cluster: Cluster, message: IntArray, nic: IntArray) -> tuple[IntArray, IntArray]:
    """Keep one NIC on each leaf for each message: a leaf forwards only the sum of what its NICs sent."""
    leaf = cluster.links.dst[cluster.wiring.nic_up + nic]
    _, first = np.unique(message * (int(cluster.links.dst.max()) + 1) + leaf, return_index=True)
    return message[first], nic[first]


def _opposite_direction(cluster: Cluster, link: IntArray) -> IntArray:
    """The other direction of the same cable; every cable between switches has both."""
    src = cluster.links.src
    dst = cluster.links.dst
    span = int(max(src.max(), dst.max())) + 1
    order = np.argsort(src * span + dst, kind="stable")
    keys = (src * span + dst)[order]
    back: IntArray = order[np.searchsorted(keys, dst[link] * span + src[link])]
    return back
