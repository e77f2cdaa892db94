"""Routes between workers and parameter servers, with identical servers folded: one message stands for many.

Keys are spread over servers by hash, so a worker's message splits into equal shares, one per server. Servers that are
placed identically with respect to every worker receive, queue and reply in step, so one of them can stand for its
class. The classes are exact. Start with one class. Colour each flow between a worker and a server by the worker, the
direction and the server's class; refine to the equitable partition (dessim.sim.fluid.fold); split classes whose servers
have flows of different colours; and repeat until no class splits. All flows between a worker and a class then share a
colour. So do those of them that are in flight, because removing whole colours keeps a partition equitable. Workers are
never folded, because a queue serves them one after the other.

A folded message crosses one link of each colour and puts the load of all flows of its colour on it. To the network it
is a flow like any other. A colour of links may serve two classes with equal traffic, so the bytes of each class are
counted separately.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import ArrayLike

from dessim.arrays import Floats, Ints
from dessim.cluster import Cluster
from dessim.cluster.links import IntArray
from dessim.cluster.routing.routes import Routes
from dessim.sim.fluid.flows import Flows, route_flows
from dessim.sim.fluid.fold import Fold, fold, number_rows
from dessim.sim.fluid.incidence import incidence


@dataclass(frozen=True, slots=True, eq=False)
class ServedCluster(Cluster):
    """A cluster whose routes between workers and server classes are those of folded messages.

    `known_routes` has the route of one message per pair of GPUs: the worker's, and that of the server which stands for
    its class.
    """

    known_routes: Mapping[tuple[int, int], Routes] = field(default_factory=dict)

    def routes(
        self,
        src: ArrayLike,
        dst: ArrayLike,
        without_twins: bool = False,
        size: ArrayLike | None = None,
        refuse: bool = True,
    ) -> Routes:
        """The routes of folded messages, which are known in advance."""
        pairs = zip(np.asarray(src).tolist(), np.asarray(dst).tolist(), strict=True)
        routes = [self.known_routes[pair] for pair in pairs]
        if len(routes) == 1:
            return routes[0]
        return Routes(
            flow=np.repeat(np.arange(len(routes)), [len(route.link) for route in routes]),
            link=np.concatenate([route.link for route in routes]),
            weight=np.concatenate([route.weight for route in routes]),
            latency=np.concatenate([route.latency for route in routes]),
            copies=np.concatenate([route.copies for route in routes]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """Routed messages between workers and server classes, of 1 byte to or from each server.

    `up[w][d]` is the message from worker w to the servers of class d, `down[w][d]` the one from them to it. Class d has
    `sizes[d]` servers. Run the messages on a network of `cluster`.
    """

    cluster: ServedCluster
    up: tuple[tuple[Flows, ...], ...]
    down: tuple[tuple[Flows, ...], ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _FoldedServers:
    """Servers in classes, and the folded flows between workers and servers.

    `classes` [servers] is the class of each server, `first` [classes] the first server of each. Flow
    (w * servers + s) goes from worker w to server s, flow ((workers + w) * servers + s) the other direction.
    """

    classes: Ints
    first: Ints
    folded: Fold


def open_channels(cluster: Cluster, workers: IntArray, servers: IntArray, folding: bool = True) -> Channels:
    """Route all messages between `workers` [N] and `servers` [S], given as the GPU ids where each is attached.

    No worker may share a GPU with a server. A worker hands its S messages over one after the other.
    """
    n = len(workers)
    s = len(servers)
    src = np.concatenate([np.repeat(workers, s), np.tile(servers, n)])
    dst = np.concatenate([np.tile(servers, n), np.repeat(workers, s)])
    net, latency, copies = incidence(cluster, src, dst, size=np.ones(len(src)))

    def refold(classes: Ints) -> Fold:
        worker_and_direction = np.arange(2 * n, dtype=np.float64).repeat(s)
        return fold(net, number_rows(worker_and_direction, np.tile(classes, 2 * n).astype(np.float64), latency))

    served = _fold_servers(refold, n, s, folding)
    folded = served.folded
    n_kinds = len(cluster.links.kinds)
    cell = folded.colour[net.flow] * n_kinds + cluster.links.kind[net.link]
    n_colours = len(folded.flow_of)
    carried = np.bincount(cell, net.weight * copies, n_colours * n_kinds).reshape(n_colours, n_kinds)
    route_of_colour = _routes(folded, latency)
    representatives = (np.arange(2 * n)[:, None] * s + served.first).ravel().tolist()
    colour_of = {(int(src[flow]), int(dst[flow])): int(folded.colour[flow]) for flow in representatives}
    known_routes = {pair: route_of_colour[colour] for pair, colour in colour_of.items()}
    attributes = {f.name: getattr(cluster, f.name) for f in fields(cluster)}
    served_cluster = ServedCluster(**attributes, known_routes=known_routes)
    handing_over = (s - 1) * cluster.transport.message_overhead

    def channel(src: int, dst: int, extra: float) -> Flows:
        flows = route_flows(served_cluster, np.array([src]), np.array([dst]), np.ones(1), folding=False)
        return replace(flows, fixed=flows.fixed + extra, bytes_by_kind=carried[colour_of[src, dst]])

    ends = servers[served.first].tolist()
    return Channels(
        cluster=served_cluster,
        up=tuple(tuple(channel(worker, end, handing_over) for end in ends) for worker in workers.tolist()),
        down=tuple(tuple(channel(end, worker, 0.0) for end in ends) for worker in workers.tolist()),
        sizes=tuple(np.bincount(served.classes).tolist()),
    )


def _fold_servers(refold: Callable[[Ints], Fold], n_workers: int, n_servers: int, folding: bool) -> _FoldedServers:
    """Split servers into classes until all flows between a worker and a class share a colour."""
    classes = np.zeros(n_servers, dtype=np.int64) if folding else np.arange(n_servers)
    while True:
        folded = refold(classes)
        colours = folded.colour.reshape(2 * n_workers, n_servers)
        _, first, finer = np.unique(colours, axis=1, return_index=True, return_inverse=True)
        if len(first) == classes.max(initial=0) + 1:
            first = np.array([np.flatnonzero(classes == d)[0] for d in range(len(first))])
            return _FoldedServers(classes, first, folded)
        # Number classes by their first members, so that they are in the order of servers.
        classes = np.argsort(np.argsort(first))[finer.reshape(-1)]


def _routes(folded: Fold, latency: Floats) -> list[Routes]:
    """The route of one message per colour; `latency` [n_flows] in seconds is that of the whole network."""
    net = folded.net
    link = folded.link_of[net.link]
    ends = np.searchsorted(net.flow, np.arange(net.n_flows + 1))
    routes = []
    for a, b, flow in zip(ends[:-1].tolist(), ends[1:].tolist(), folded.flow_of.tolist(), strict=True):
        only_flow = np.zeros(b - a, dtype=np.int64)
        routes.append(Routes(only_flow, link[a:b], net.weight[a:b], latency[flow : flow + 1], copies=np.ones(b - a)))
    return routes
