"""Workers and parameter servers on a fabric, with identical servers folded: one message stands for several equal ones.

Keys are spread by hash, so a worker's message is divided into equal shares, one for each server. Servers whose messages
see the same network conditions receive, queue and answer in step, and one server stands for their class. The classes
are exact. Each flow between a worker and a server starts with a colour made of the worker, the direction and the class
of the server. The colours are refined to the equitable partition (dessim.sim.fluid), servers whose flows differ in
colour are put into different classes, and this repeats until no class splits. All flows between one worker and one
class then share a colour. The same holds for the flows in flight, because removing whole colours keeps a partition
equitable. Workers are never folded, because a queue serves one after the other.

A folded message crosses one link of each colour, with the load that all flows of its colour put there. To the network
it is an ordinary flow, drained with all others. (A colour of links may span two classes that carry the same load, so
the bytes of each class are counted separately.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from dessim.cluster import Cluster
from dessim.cluster.links import FloatArray, IntArray
from dessim.cluster.routing.routes import Routes
from dessim.sim.fluid.flows import Flows, route_flows
from dessim.sim.fluid.fold import Fold, fold, number_rows
from dessim.sim.fluid.incidence import incidence
from dessim.sim.fluid.maxmin import Incidence


@dataclass(frozen=True, slots=True, eq=False)
class FoldedRoutes:
    """The route provider of folded messages.

    `by_pair` holds the route of one message each, by the GPUs of its worker and of the server that stands for its
    class, in the direction of the message.
    """

    by_pair: Mapping[tuple[int, int], Routes]

    def routes(
        self, src: IntArray, dst: IntArray, *, without_twins: bool = False, size: FloatArray | None = None
    ) -> Routes:
        """Return the routes of folded messages from `src` to `dst` [n], as the `RouteProvider` protocol asks.

        Folding has already merged twins and chosen routes, so the other arguments make no difference.
        """
        routes = [self.by_pair[pair] for pair in zip(src.tolist(), dst.tolist(), strict=True)]
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
    """Flows between workers and server classes, for messages of 1 byte to or from each server.

    `up[w][d]` is the message of worker w to the servers of class d, and `down[w][d]` is theirs to it; class d has
    `sizes[d]` servers. A `Network` for these flows runs on `cluster`, whose routes are those of folded messages.
    """

    cluster: Cluster
    up: tuple[tuple[Flows, ...], ...]
    down: tuple[tuple[Flows, ...], ...]
    sizes: tuple[int, ...]


def open_channels(
    cluster: Cluster, workers: IntArray, servers: IntArray, folding: bool = True, *, first_apart: bool = False
) -> Channels:
    """Route all messages between `workers` [N] and `servers` [S], given as ids of the GPUs where they are attached.

    No worker may share a GPU with a server. A worker hands over its S messages one after the other. With
    `first_apart` server 0 has its own class, for messages of another size.
    """
    n = len(workers)
    s = len(servers)
    src = np.concatenate([np.repeat(workers, s), np.tile(servers, n)])
    dst = np.concatenate([np.tile(servers, n), np.repeat(workers, s)])
    net, latency, copies = incidence(cluster, src, dst, size=np.ones(len(src)))
    folded, classes = _fold_servers(net, latency, n, s, _first_classes(s, folding, first_apart))
    first = np.array([np.flatnonzero(classes == d)[0] for d in range(classes.max(initial=0) + 1)])
    n_colours = len(folded.flow_of)
    n_kinds = len(cluster.links.kinds)
    colour_and_kind = folded.colour[net.flow] * n_kinds + cluster.links.kind[net.link]
    bytes_by_kind = np.bincount(colour_and_kind, net.weight * copies, n_colours * n_kinds).reshape(n_colours, n_kinds)
    colour_of_pair = {
        (int(src[flow]), int(dst[flow])): int(folded.colour[flow])
        for flow in (np.arange(2 * n)[:, None] * s + first).ravel().tolist()
    }
    routes = _routes_of_colours(folded, latency)
    provider = FoldedRoutes({pair: routes[colour] for pair, colour in colour_of_pair.items()})
    folded_cluster = replace(cluster, route_provider=provider)
    queueing = (s - 1) * cluster.transport.message_overhead

    def channel(src: int, dst: int, extra: float) -> Flows:
        flows = route_flows(folded_cluster, np.array([src]), np.array([dst]), np.ones(1), folding=False)
        return replace(flows, fixed=flows.fixed + extra, bytes_by_kind=bytes_by_kind[colour_of_pair[src, dst]])

    ends = servers[first].tolist()
    return Channels(
        folded_cluster,
        up=tuple(tuple(channel(worker, end, queueing) for end in ends) for worker in workers.tolist()),
        down=tuple(tuple(channel(end, worker, 0.0) for end in ends) for worker in workers.tolist()),
        sizes=tuple(np.bincount(classes).tolist()),
    )


def _first_classes(s: int, folding: bool, first_apart: bool) -> IntArray:
    """The classes of servers [s] that folding starts from."""
    if not folding:
        return np.arange(s)
    return np.minimum(np.arange(s), 1) if first_apart else np.zeros(s, dtype=np.int64)


def _fold_servers(net: Incidence, latency: FloatArray, n: int, s: int, classes: IntArray) -> tuple[Fold, IntArray]:
    """Fold the network of all messages, starting from `classes` [s]; return also the final class of each server, [s].

    Flows are ordered by worker and direction [2 n], then by server [s].
    """
    worker_and_direction = np.arange(2 * n, dtype=np.float64).repeat(s)
    while True:
        folded = fold(net, number_rows(worker_and_direction, np.tile(classes, 2 * n).astype(np.float64), latency))
        colours_of_server = folded.colour.reshape(2 * n, s)
        _, first, finer = np.unique(colours_of_server, axis=1, return_index=True, return_inverse=True)
        if len(first) == classes.max(initial=0) + 1:
            return folded, classes
        # Number classes by their first member, so that classes are in the order of servers.
        classes = np.argsort(np.argsort(first))[finer.reshape(-1)]


def _routes_of_colours(folded: Fold, latency: FloatArray) -> list[Routes]:
    """The route of one message of each colour of a folded network; `latency` [flows] is in seconds."""
    net = folded.net
    link = folded.link_of[net.link]
    ends = np.searchsorted(net.flow, np.arange(net.n_flows + 1))
    routes = []
    for a, b, flow in zip(ends[:-1].tolist(), ends[1:].tolist(), folded.flow_of.tolist(), strict=True):
        routes.append(
            Routes(
                flow=np.zeros(b - a, dtype=np.int64),
                link=link[a:b],
                weight=net.weight[a:b],
                latency=latency[flow : flow + 1],
                copies=np.ones(b - a),
            )
        )
    return routes
