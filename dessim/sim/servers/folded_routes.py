"""Workers and servers on a fabric, like servers folded: one message stands for those that behave alike.

Keys are spread by hash, so a worker's message falls into equal shares, one for each server. Servers that every worker
reaches alike then receive, queue and answer in step, and one stands for its class. What "alike" means is exact: give
each flow between a worker and a server the worker's number, the direction and the server's class as its first colour,
refine to the equitable partition (dessim.sim.fluid), put servers apart whose flows differ in colour, and repeat
until no class splits. All flows between one worker and one class then share a colour; so does the part of them that is
in flight, because taking whole colours away keeps a partition equitable. Workers are never folded: a queue serves one
after the other.

A folded message crosses one link of each colour, with the load that all flows of its colour put there. That is a flow
like any other to the network, which drains it with the rest. (A colour of links may span two classes that carry the
same, so what each class carries is counted apart.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import ArrayLike

from dessim.arrays import Floats
from dessim.cluster import Cluster
from dessim.cluster.links import IntArray
from dessim.cluster.routing.routes import Routes
from dessim.sim.fluid.flows import Flows, incidence, route_flows, together
from dessim.sim.fluid.fold import Fold, fold


@dataclass(frozen=True, slots=True, eq=False)
class ServedCluster(Cluster):
    """A cluster on which the ways between workers and server classes are those of folded messages.

    `ways` are the routes of one message each, by the GPUs of the worker and of the server that stands for its class.
    """

    ways: Mapping[tuple[int, int], Routes] = field(default_factory=dict)

    def routes(
        self,
        src: ArrayLike,
        dst: ArrayLike,
        without_twins: bool = False,
        size: ArrayLike | None = None,
        refuse: bool = True,
    ) -> Routes:
        """The ways of folded messages, known beforehand."""
        tails, heads = np.asarray(src).tolist(), np.asarray(dst).tolist()
        ways = [self.ways[pair] for pair in zip(tails, heads, strict=True)]
        if len(ways) == 1:
            return ways[0]
        return Routes(
            np.repeat(np.arange(len(ways)), [len(way.link) for way in ways]),
            np.concatenate([way.link for way in ways]),
            np.concatenate([way.weight for way in ways]),
            np.concatenate([way.latency for way in ways]),
            np.concatenate([way.copies for way in ways]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """The ways between workers and server classes, for messages of 1 byte to or from each server.

    `up[w][d]` is worker w's message to the servers of class d, `down[w][d]` theirs to it; `sizes[d]` servers are in
    class d. `cluster` is what a `Network` for them runs on.
    """

    cluster: ServedCluster
    up: tuple[tuple[Flows, ...], ...]
    down: tuple[tuple[Flows, ...], ...]
    sizes: tuple[int, ...]


def open_channels(cluster: Cluster, workers: IntArray, servers: IntArray, folding: bool = True) -> Channels:
    """Route all messages between `workers` [N] and `servers` [S], GPU ids that name where each is attached.

    No worker may share a GPU with a server. A worker hands its S messages over one after the other.
    """
    n, s = len(workers), len(servers)
    src = np.concatenate([np.repeat(workers, s), np.tile(servers, n)])
    dst = np.concatenate([np.tile(servers, n), np.repeat(workers, s)])
    net, latency, copies = incidence(cluster, src, dst, size=np.ones(len(src)))
    end = np.arange(2 * n, dtype=np.float64).repeat(s)  # the worker, and the direction
    classes = np.zeros(s, dtype=np.int64) if folding else np.arange(s)
    while True:
        folded = fold(net, together(end, np.tile(classes, 2 * n).astype(np.float64), latency))
        seen = folded.colour.reshape(2 * n, s)
        _, first, finer = np.unique(seen, axis=1, return_index=True, return_inverse=True)
        if len(first) == classes.max(initial=0) + 1:
            break
        # Numbered by the first member, so that the order of servers is that of classes.
        classes = np.argsort(np.argsort(first))[finer.reshape(-1)]
    first = np.array([np.flatnonzero(classes == d)[0] for d in range(len(first))])
    colours, kinds = len(folded.flow_of), len(cluster.links.kinds)
    group = folded.colour[net.flow] * kinds + cluster.links.kind[net.link]
    carried = np.bincount(group, net.weight * copies, colours * kinds).reshape(colours, kinds)
    alone = _ways(folded, latency)
    at = {
        (int(src[flow]), int(dst[flow])): int(folded.colour[flow])
        for flow in (np.arange(2 * n)[:, None] * s + first).ravel().tolist()
    }
    ways = {pair: alone[colour] for pair, colour in at.items()}
    served = ServedCluster(**{f.name: getattr(cluster, f.name) for f in fields(cluster)}, ways=ways)
    queueing = (s - 1) * cluster.transport.message_overhead

    def channel(src: int, dst: int, extra: float) -> Flows:
        flows = route_flows(served, np.array([src]), np.array([dst]), np.ones(1), folding=False)
        return replace(flows, fixed=flows.fixed + extra, bytes_by_kind=carried[at[src, dst]])

    ends = servers[first].tolist()
    return Channels(
        served,
        tuple(tuple(channel(worker, end, queueing) for end in ends) for worker in workers.tolist()),
        tuple(tuple(channel(end, worker, 0.0) for end in ends) for worker in workers.tolist()),
        tuple(np.bincount(classes).tolist()),
    )


def _ways(folded: Fold, latency: Floats) -> list[Routes]:
    """The routes of one message of each colour of a folded network; `latency` [flows] in seconds."""
    net, link = folded.net, folded.link_of[folded.net.link]
    ends = np.searchsorted(net.flow, np.arange(net.n_flows + 1))
    return [
        Routes(np.zeros(b - a, dtype=np.int64), link[a:b], net.weight[a:b], latency[flow : flow + 1], np.ones(b - a))
        for a, b, flow in zip(ends[:-1].tolist(), ends[1:].tolist(), folded.flow_of.tolist(), strict=True)
    ]
