"""Any fabric: switches and cables listed one by one, or read from a GraphML file.

Routes are the shortest in hops, and all shortest ways between two switches are alternatives. Which way is number j is
worked out hop by hop from how many ways lead on from each neighbour, so that ways are never listed. What that needs is
one number for each pair of switches, hence `MAX_SWITCHES`. Left out: switches a node's NICs share unevenly, weights
other than hops, cables with different rates each way.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from dessim.cluster.fabrics.direct import Cables, between_halves, numbers, port_sentences
from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.parts import Link, Switch
from dessim.cluster.routing.routes import Pick, Segment, ways

MAX_SWITCHES = 2_048
"""The tables of distances and numbers of ways have this many rows and columns."""
MAX_WAYS = 4_096
"""More equal ways than that between two switches would be split into shares too thin to follow."""

_RESERVED = re.compile(r"^(gpu|node)\d|->")
_TOGETHER = 128
"""Starts of a breadth-first search at once, which take some 100 bytes for each of their switches' cables."""


@dataclass(frozen=True, slots=True)
class Edge:
    """`cables` cables between switches `a` and `b`; `link` where it is not the fabric's usual one."""

    a: str
    b: str
    cables: int = 1
    link: Link | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Switches by name, the cables between them, and on how many nodes each switch's ports have."""

    switches: tuple[str, ...]
    edges: tuple[Edge, ...]
    nodes: tuple[int, ...]

    def problem(self) -> str:
        """What is wrong with it, empty if nothing is."""
        twice = [name for name, count in Counter(self.switches).items() if count > 1]
        if twice:
            return f"switch {twice[0]!r} is there twice"
        if len(self.switches) > MAX_SWITCHES:
            return f"{len(self.switches):,} switches are more than the {MAX_SWITCHES:,} a graph may have"
        odd = [name for name in self.switches if not name.strip() or _RESERVED.search(name)]
        if odd:
            return f"no switch can be called {odd[0]!r}: names of GPUs and nodes, and arrows, mean something else"
        known, seen = set(self.switches), set[frozenset[str]]()
        for edge in self.edges:
            missing = [end for end in (edge.a, edge.b) if end not in known]
            if missing:
                return f"a link ends at {missing[0]!r}, which is no switch; switches: {', '.join(self.switches[:8])}"
            if edge.a == edge.b:
                return f"a link joins {edge.a!r} to itself"
            if frozenset((edge.a, edge.b)) in seen:
                return f"{edge.a!r} and {edge.b!r} are joined twice; write one link with cables = 2"
            seen.add(frozenset((edge.a, edge.b)))
        return ""


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """NIC i is on switch `home[i]`; from switch to switch are `distance` [s, s] hops, by `count` [s, s] shortest ways.

    The links that leave switch v are `at[v] .. at[v + 1]` of `cables`, and of the cluster's links with `first` added.
    """

    names: tuple[str, ...]
    home: IntArray
    first: int
    at: IntArray
    cables: Cables
    wires: IntArray
    distance: IntArray
    count: FloatArray
    switch: Switch | None
    kind: str = "graph"
    rail_aware: bool = False

    def segments(self, src: IntArray, dst: IntArray, pick: Pick) -> list[Segment]:
        """Pairs of switches with equally many ways of equal length go together."""
        a, b = self.home[src], self.home[dst]
        hops, k = self.distance[a, b], self.count[a, b].astype(np.int64)
        segments = []
        for size in np.unique(np.stack([hops, k], axis=1)[hops > 0], axis=0).tolist():
            rows = np.flatnonzero((hops == size[0]) & (k == size[1]))
            number = numbers(pick(rows, size[1], dst[rows] % size[1]), len(rows), size[1])
            segments.append(ways(rows, self._walk(a[rows], b[rows], number, size[0])))
        return segments

    def _walk(self, a: IntArray, b: IntArray, number: IntArray, hops: int) -> IntArray:
        """Links [m, k, hops] of the ways `number` [m, k] from switches `a` to switches `b` [m].

        The neighbours of a switch that are nearer to the goal share its ways out among them, in the order of links.
        """
        at, left = np.broadcast_to(a[:, None], number.shape), number.astype(np.float64)
        goal = b[:, None]
        links = np.empty((*number.shape, hops), dtype=np.int64)
        for hop in range(hops):
            found = np.full(number.shape, -1)
            for port in range(int(np.diff(self.at)[at].max())):
                link = np.minimum(self.at[at] + port, len(self.cables.head) - 1)
                nearer = (self.at[at] + port < self.at[at + 1]) & (found < 0)
                nearer &= self.distance[self.cables.head[link], goal] == hops - hop - 1
                behind = np.where(nearer, self.count[self.cables.head[link], goal], 0.0)
                here = nearer & (left < behind)
                found = np.where(here, link, found)
                left = np.where(nearer & ~here, left - behind, left)
            links[:, :, hop] = found
            at = self.cables.head[found]
        return self.first + links

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """The maximum flow, or a cut that is no less (`between_halves`)."""
        return between_halves(self.home, first_half, nic_capacity, self.cables)

    def oversubscription(self, nic_capacity: FloatArray) -> float:
        """Of the worst switch: its NICs over its cables to others."""
        enters = np.bincount(self.home, nic_capacity, minlength=len(self.names))
        out = np.bincount(self.cables.tail, self.cables.capacity, minlength=len(self.names))
        with_both = (enters > 0) & (out > 0)
        return float((enters[with_both] / out[with_both]).max(initial=0.0)) or 1.0

    def port_problems(self) -> list[str]:
        """One port a NIC and a cable."""
        ports = np.bincount(self.home, minlength=len(self.names))
        ports += np.bincount(self.cables.tail, self.wires, minlength=len(self.names)).astype(np.int64)
        worst = int(ports.argmax())
        return port_sentences(self.switch, {f"switch {self.names[worst]}": int(ports[worst])})


def build(
    builder: LinkBuilder, node: IntArray, plan: Plan, cable: Link, switch: Switch | None
) -> tuple[Graph, IntArray]:
    """The fabric, and the vertex each NIC is attached to; NIC i is of node `node[i]`.

    Raises ValueError where nodes cannot reach each other, or by too many ways.
    """
    number = {name: i for i, name in enumerate(plan.switches)}
    both = [(number[x], number[y], edge) for edge in plan.edges for x, y in ((edge.a, edge.b), (edge.b, edge.a))]
    both.sort(key=lambda one: one[:2])
    tail, head = (np.array([one[i] for one in both], dtype=np.int64) for i in (0, 1))
    first = builder.add_layer("switch", len(plan.switches), names=plan.switches)
    extra = switch.latency if switch else 0.0
    blocks = [
        builder.add_links(
            "cable", edge.link or cable, [first + a], [first + b], extra_latency=extra, bundle=edge.cables
        )
        for a, b, edge in both
    ]
    capacity = np.array([(edge.link or cable).capacity * edge.cables for _, _, edge in both], dtype=np.float64)
    at = np.searchsorted(tail, np.arange(len(plan.switches) + 1))
    home = np.repeat(np.arange(len(plan.switches)), np.array(plan.nodes))[node]
    distance, count = _shortest(at, head)
    used = np.unique(home)
    far, most = distance[np.ix_(used, used)], count[np.ix_(used, used)]
    if (far < 0).any():
        i, j = (used[x] for x in np.argwhere(far < 0)[0])
        raise ValueError(f"no way leads from switch {plan.switches[i]!r} to switch {plan.switches[j]!r}")
    if most.max() > MAX_WAYS:
        i, j = (used[x] for x in np.unravel_index(int(most.argmax()), most.shape))
        names = f"{plan.switches[i]!r} and {plan.switches[j]!r}"
        raise ValueError(f"{most.max():,.0f} equally short ways between {names} are more than {MAX_WAYS:,}")
    wires = np.array([edge.cables for _, _, edge in both], dtype=np.int64)
    cables = Cables(tail, head, capacity)
    fabric = Graph(plan.switches, home, blocks[0] if blocks else 0, at, cables, wires, distance, count, switch)
    return fabric, first + home


def _shortest(at: IntArray, head: IntArray) -> tuple[IntArray, FloatArray]:
    """Hops (-1: unreachable) and number of shortest ways [s, s] between all pairs: breadth first, many at once."""
    n = len(at) - 1
    distance, count = np.full(n * n, -1, dtype=np.int64), np.zeros(n * n)
    seen = np.empty(n * n, dtype=np.int64)
    for starts in np.split(np.arange(n), range(_TOGETHER, n, _TOGETHER)):
        pair = starts * n + starts
        distance[pair], count[pair] = 0, 1.0
        hops = 0
        while len(pair):
            hops += 1
            node = pair % n
            degree = at[node + 1] - at[node]
            offset = np.arange(degree.sum()) - np.repeat(np.cumsum(degree) - degree, degree)
            reached = np.repeat(pair - node, degree) + head[np.repeat(at[node], degree) + offset]
            fresh = distance[reached] < 0
            carried, reached = np.repeat(count[pair], degree)[fresh], reached[fresh]
            np.add.at(count, reached, carried)
            distance[reached] = hops
            seen[reached] = np.arange(len(reached))  # the last one stays: one of each
            pair = reached[seen[reached] == np.arange(len(reached))]
    return distance.reshape(n, n), count.reshape(n, n)
