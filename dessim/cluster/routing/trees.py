"""Messages through switches that sum: trees of links instead of paths.

A tree message goes from all its senders up to where they meet, is summed on the way, and goes down to all its
receivers; each link between switches carries it once. Inside a node the tree is the NVSwitch with the members' NVLinks.
Across nodes every member uses its own NIC (several behind one NIC each have a message there), and the switches' part is
the union of the routes from the senders' leaves to the first receiver's leaf, and the same backwards to the receivers'
leaves: on leaves and spines that loads every link as a tree with a spine at its top would, a stripe a spine where
routing splits.
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

TREE_KINDS = ("single_switch", "leaf_spine", "rail_optimised", "fat_tree", "nvlink_domain")
"""Fabrics whose routes from many to one are a tree. Elsewhere sums would need a tree of their own."""


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """m messages: number i goes from `up[up_at[i]:up_at[i + 1]]` to `down[down_at[i]:down_at[i + 1]]`."""

    up: IntArray
    up_at: IntArray
    down: IntArray
    down_at: IntArray

    @classmethod
    def of(cls, up: IntArray, down: IntArray) -> Trees:
        """From senders `up` [m, a] and receivers `down` [m, b], a row a message."""
        (m, a), b = up.shape, down.shape[1]
        return cls(up.ravel(), np.arange(m + 1) * a, down.ravel(), np.arange(m + 1) * b)

    @classmethod
    def join(cls, *parts: Trees) -> Trees:
        """One after the other."""
        up, down = [part.up_at for part in parts], [part.down_at for part in parts]
        return cls(
            np.concatenate([part.up for part in parts]),
            _chain([np.diff(at) for at in up]),
            np.concatenate([part.down for part in parts]),
            _chain([np.diff(at) for at in down]),
        )

    def __len__(self) -> int:
        return len(self.up_at) - 1

    def members(self, number: int) -> tuple[list[int], list[int]]:
        """Senders and receivers of one message."""
        up = self.up[self.up_at[number] : self.up_at[number + 1]]
        return up.tolist(), self.down[self.down_at[number] : self.down_at[number + 1]].tolist()

    def take(self, rows: IntArray) -> Trees:
        """Some of the messages."""
        return Trees(*_take(self.up, self.up_at, rows), *_take(self.down, self.down_at, rows))

    def on(self, gpus: IntArray) -> Trees:
        """The same with rank r replaced by `gpus[r]`."""
        return Trees(gpus[self.up], self.up_at, gpus[self.down], self.down_at)


def sums_in_node(cluster: Cluster) -> bool:
    """Whether the NVSwitches of all nodes reduce."""
    return all(node.nvswitch is not None and node.nvswitch.reduces for node in cluster.nodes)


def sums_in_fabric(cluster: Cluster) -> bool:
    """Whether the switches that join the nodes reduce, and stand so that any GPUs meet below one of them."""
    switch = cluster.fabric.switch
    return switch is not None and switch.reduces and cluster.kind in TREE_KINDS


def tree_routes(cluster: Cluster, trees: Trees, refuse: bool = True) -> Routes:
    """Links of each tree message, as `Cluster.routes` gives those of ordinary ones."""
    m = len(trees)
    up_of, down_of = np.repeat(np.arange(m), np.diff(trees.up_at)), np.repeat(np.arange(m), np.diff(trees.down_at))
    home = cluster.node_of(trees.up[trees.up_at[:-1]])
    abroad = np.zeros(m, dtype=bool)
    abroad[up_of[cluster.node_of(trees.up) != home[up_of]]] = True
    abroad[down_of[cluster.node_of(trees.down) != home[down_of]]] = True
    if not sums_in_node(cluster) and not abroad.all():
        raise ValueError(f"the nodes of {cluster.name} have no switch that sums")
    if not sums_in_fabric(cluster) and abroad.any():
        raise ValueError(f"the switches of {cluster.name} do not sum")
    found = _Found(cluster, m)
    _inside(found, trees, up_of, down_of, ~abroad)
    if abroad.any():
        _across(found, trees, up_of, down_of, abroad)
    routes = found.routes()
    if refuse:
        cluster.refuse_down(routes, trees.up[trees.up_at[:-1]], trees.down[trees.down_at[:-1]])
    return routes


class _Found:
    """Collects which message crosses which link with which weight, and adds up each message's latency."""

    def __init__(self, cluster: Cluster, m: int) -> None:
        self.cluster = cluster
        self.members: list[tuple[IntArray, FloatArray]] = []
        self.shared: list[tuple[IntArray, FloatArray]] = []
        self.latency = np.zeros(m)

    def member_links(self, rows: IntArray, gpu: IntArray, way: Callable[[NodeLinks, IntArray], list[IntArray]]) -> None:
        """Links of single members, those on the `way` of each GPU of message `rows`: each carries a message of its own.

        Adds the slowest member's latency.
        """
        slowest = np.zeros(len(self.latency))
        for kind, some in self.cluster.wiring.by_kind(gpu):
            of, hops = rows[some], way(kind, gpu[some])
            np.maximum.at(slowest, of, sum(self.cluster.links.latency[hop] for hop in hops))
            self.members += [(self._key(of, hop), np.ones(len(of))) for hop in hops]
        self.latency += slowest

    def shared_links(self, rows: IntArray, link: IntArray, weight: FloatArray) -> None:
        """Links between switches: named several times for one message, they carry it once."""
        self.shared.append((self._key(rows, link), weight))

    def routes(self) -> Routes:
        keys, weights = (np.concatenate(column) for column in zip(*self.members, strict=True))
        if self.shared:
            again, share = (np.concatenate(column) for column in zip(*self.shared, strict=True))
            once, first = np.unique(again, return_index=True)
            keys, weights = np.concatenate([keys, once]), np.concatenate([weights, share[first]])
        key, position = np.unique(keys, return_inverse=True)
        flow, link = np.divmod(key, len(self.cluster.links))
        total: FloatArray = np.bincount(position, weights).astype(np.float64)
        return Routes(flow, link, total, self.latency, np.ones(len(flow)))

    def _key(self, rows: IntArray, link: IntArray) -> IntArray:
        key: IntArray = rows * len(self.cluster.links) + link
        return key


def _inside(found: _Found, trees: Trees, up_of: IntArray, down_of: IntArray, rows: IntArray) -> None:
    up, down = rows[up_of], rows[down_of]
    found.member_links(up_of[up], trees.up[up], lambda kind, gpu: [kind.nvlink_up + gpu - kind.run.gpu])
    found.member_links(down_of[down], trees.down[down], lambda kind, gpu: [kind.nvlink_down + gpu - kind.run.gpu])


def _across(found: _Found, trees: Trees, up_of: IntArray, down_of: IntArray, rows: IntArray) -> None:
    cluster, wiring = found.cluster, found.cluster.wiring
    senders, receivers = rows[up_of], rows[down_of]
    of_sender, sender = up_of[senders], trees.up[senders]
    of_receiver, receiver = down_of[receivers], trees.down[receivers]
    out, into = wiring.nic_of(sender), wiring.nic_of(receiver)
    found.member_links(of_sender, sender, NodeLinks.out)
    found.member_links(of_receiver, receiver, NodeLinks.into)
    top = wiring.nic_of(trees.down[trees.down_at[:-1]])  # the leaf where senders meet, as one of its NICs
    highest = np.zeros(len(trees))
    # A tree is laid by destination, so that all leaves agree on its top, unless it is a stripe a spine.
    routing = Routing("split" if cluster.routing.policy == "split" else "static")
    for of, nic, backwards in ((of_sender, out, False), (of_receiver, into, True)):
        of, nic = _one_a_leaf(cluster, of, nic)
        traffic = FlowRequests(nic, top[of], np.ones(len(nic)), np.zeros(len(nic), dtype=np.int64))
        routes = assemble(len(nic), cluster.across(traffic, routing), cluster.links)
        links = _reverse(cluster, routes.link) if backwards else routes.link
        found.shared_links(of[routes.flow], links, routes.weight)
        if not backwards:
            np.maximum.at(highest, of, routes.latency)
    found.latency += highest


def _one_a_leaf(cluster: Cluster, of: IntArray, nic: IntArray) -> tuple[IntArray, IntArray]:
    """Of each message one NIC on each leaf: the leaf sends on what it has summed."""
    leaf = cluster.links.dst[cluster.wiring.nic_up + nic]
    _, first = np.unique(of * (int(cluster.links.dst.max()) + 1) + leaf, return_index=True)
    return of[first], nic[first]


def _reverse(cluster: Cluster, link: IntArray) -> IntArray:
    """The link back. Cables have two directions, so there is one."""
    src, dst = cluster.links.src, cluster.links.dst
    span = int(max(src.max(), dst.max())) + 1
    order = np.argsort(src * span + dst, kind="stable")
    keys = (src * span + dst)[order]
    back: IntArray = order[np.searchsorted(keys, dst[link] * span + src[link])]
    return back


def _chain(lengths: list[IntArray]) -> IntArray:
    return np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)


def _take(values: IntArray, at: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    length = np.diff(at)[rows]
    offset = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    index = np.arange(offset[-1]) + np.repeat(at[rows] - offset[:-1], length)
    return values[index], offset
