"""Which links messages cross, as input for max-min fair sharing, and what else limits the rate of a message.

Routes are those of the cluster (dessim.cluster.routing). A transport may add acknowledgements, which load the reverse
route; a maximum rate per flow; and a fan-in curve, which lowers the capacity of a receiver's link that many flows share
(dessim.sim.fluid.fan_in).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from dessim.arrays import Bools, Floats, Ints
from dessim.cluster import Cluster
from dessim.cluster.links import Links
from dessim.cluster.routing.routes import Routes
from dessim.cluster.routing.trees import Trees
from dessim.cluster.tree_routes import tree_routes
from dessim.sim.core.bounds import FLOW_CAP
from dessim.sim.fluid.fan_in import FanIn
from dessim.sim.fluid.fold import Fold
from dessim.sim.fluid.maxmin import Incidence


class Crossings(NamedTuple):
    """The links that messages cross.

    `net` has one flow per message; `latency` [n_messages] is that of each path in seconds. Each entry of `net` stands
    for `copies` [nnz] links that always carry the same load.
    """

    net: Incidence
    latency: Floats
    copies: Floats


def incidence(
    cluster: Cluster, src: Ints, dst: Ints, trees: Trees | None = None, size: Floats | None = None
) -> Crossings:
    """The links that messages from GPU `src[i]` to `dst[i]`, or along `trees`, cross on `cluster`.

    Adaptive routing balances bytes, so it needs `size` [n_messages]; only ratios matter. A message without a route
    crosses a link of capacity 0.
    """
    ack_share = cluster.transport.ack_share
    if trees is not None:
        routes = tree_routes(cluster, trees, refuse=False)
    elif ack_share == 0:
        routes = cluster.routes(src, dst, without_twins=True, size=size, refuse=False)
    else:
        # Keep every twin: parallel links with the same data need not carry the same acknowledgements.
        routes = cluster.routes(src, dst, size=size, refuse=False)
        reverse = cluster.routes(dst, src, size=size, refuse=False)
        routes = _with_acknowledgements(routes, reverse, ack_share)
    net = with_transport_limits(cluster, len(src), routes.flow, routes.link, routes.weight)
    return Crossings(net, routes.latency, routes.copies)


def _with_acknowledgements(routes: Routes, reverse: Routes, share: float) -> Routes:
    """`routes`, with `share` of each flow's bytes on its `reverse` route as well."""
    flow = np.concatenate([routes.flow, reverse.flow])
    order = np.argsort(flow, kind="stable")
    return replace(
        routes,
        flow=flow[order],
        link=np.concatenate([routes.link, reverse.link])[order],
        weight=np.concatenate([routes.weight, reverse.weight * share])[order],
        copies=np.concatenate([routes.copies, reverse.copies])[order],
    )


def with_transport_limits(cluster: Cluster, n_flows: int, flow: Ints, link: Ints, weight: Floats) -> Incidence:
    """The incidence of flows on the links of `cluster`, with the flow cap and the fan-in curve of its transport.

    `flow`, `link` and `weight` are those of `Incidence`.
    """
    links = cluster.links
    transport = cluster.transport
    # A cap above the rate of every NIC never binds.
    capped = transport.flow_rate < max(node.nic.capacity for node in cluster.nodes)
    if not capped and not transport.fan_in:
        return Incidence(n_flows, flow, link, weight, links.capacity)
    receives = links.kind == links.kinds.index("nic_down")
    cap = None
    if capped:
        # Only flows that cross the network are capped, not those inside a node.
        cap = np.full(n_flows, np.inf)
        cap[flow[receives[link]]] = transport.flow_rate
    fan_in = FanIn.of(receives, transport.fan_in) if transport.fan_in else None
    return Incidence(n_flows, flow, link, weight, links.capacity, cap, fan_in)


def without_blocked(net: Incidence) -> tuple[Incidence, Bools]:
    """The network without its blocked flows, and which flows those are [n_flows].

    A flow is blocked if it crosses a link of capacity 0. Flow numbers stay the same; a blocked flow crosses no link any
    more.
    """
    blocked = np.zeros(net.n_flows, dtype=bool)
    is_closed = net.capacity == 0
    if is_closed.any():
        blocked[net.flow[is_closed[net.link]]] = True
    return (net.of_flows(~blocked) if blocked.any() else net), blocked


def bound_name(links: Links, folded: Fold, link: int) -> str:
    """The class of `link`, a link of the folded network that bounds a flow; -1 stands for the flow's cap."""
    return links.kinds[int(links.kind[folded.link_of[link]])] if link >= 0 else FLOW_CAP
