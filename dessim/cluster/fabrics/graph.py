"""Arbitrary fabrics: switches and cables listed one by one, or read from a GraphML file.

Routes have the fewest hops, and all such routes between two switches are alternatives. Route number j is constructed
hop by hop from the number of routes that lead on from each neighbour, so routes are never listed. This needs one number
for each pair of switches, hence `MAX_SWITCHES`. Left out: NICs of a node on different switches, weights other than
hops, and cables with different rates in the two directions.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from dessim.cluster.fabrics.direct import Cables, alternatives, between_halves, port_sentences
from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.parts import Link, Switch
from dessim.cluster.routing.routes import Pick, Segment, listed_routes

MAX_SWITCHES = 2_048
"""The tables of distances and route counts have this many rows and columns."""
MAX_ROUTES = 4_096
"""Most equally short routes between two switches; with more, each would carry a negligible share."""

_RESERVED = re.compile(r"^(gpu|node)\d|->")
_STARTS_PER_SEARCH = 128
"""Starts of one breadth-first search, each of which takes some 100 bytes per cable of each switch."""


def switch_name(name: str) -> str:
    """The name of a switch that a file calls `name`: with a prefix where GPUs, nodes or links may have that name."""
    return f"switch-{name}" if not name.strip() or _RESERVED.search(name) else name


@dataclass(frozen=True, slots=True)
class Edge:
    """`cables` cables between switches `a` and `b`; `link` is set where they are not the fabric's usual cable."""

    a: str
    b: str
    cables: int = 1
    link: Link | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Switches by name, the cables between them, and the number of nodes attached to each switch."""

    switches: tuple[str, ...]
    edges: tuple[Edge, ...]
    nodes: tuple[int, ...]

    def problem(self) -> str:
        """Return the first mistake in the plan; empty if there is none."""
        return self._switch_problem() or self._edge_problem()

    def _switch_problem(self) -> str:
        repeated = [name for name, count in Counter(self.switches).items() if count > 1]
        if repeated:
            return f"switch {repeated[0]!r} is listed twice"
        if len(self.switches) > MAX_SWITCHES:
            return f"{len(self.switches):,} switches are more than the {MAX_SWITCHES:,} a graph may have"
        reserved = [name for name in self.switches if switch_name(name) != name]
        if reserved:
            return f"a switch cannot be called {reserved[0]!r}: names of GPUs and nodes, and arrows, are reserved"
        return ""

    def _edge_problem(self) -> str:
        switches = set(self.switches)
        joined = set[frozenset[str]]()
        for edge in self.edges:
            missing = [end for end in (edge.a, edge.b) if end not in switches]
            if missing:
                return f"a link ends at {missing[0]!r}, which is not a switch; switches: {', '.join(self.switches[:8])}"
            if edge.a == edge.b:
                return f"a link joins {edge.a!r} to itself"
            if frozenset((edge.a, edge.b)) in joined:
                return f"{edge.a!r} and {edge.b!r} are joined twice; write one link with cables = 2"
            joined.add(frozenset((edge.a, edge.b)))
        return ""


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """NIC i is on switch `home[i]`. Two switches are `distance` [s, s] hops apart, with `n_routes` [s, s] routes.

    The cables that leave switch v are `first_out[v] .. first_out[v + 1]` of `cables`; cable c is link `first_link + c`
    of the cluster. `parallel` [n] is the number of physical cables that each directed cable stands for.
    """

    names: tuple[str, ...]
    home: IntArray
    first_link: int
    first_out: IntArray
    cables: Cables
    parallel: IntArray
    distance: IntArray
    n_routes: FloatArray
    switch: Switch | None
    kind: str = "graph"
    rail_aware: bool = False

    def segments(self, src: IntArray, dst: IntArray, pick: Pick) -> list[Segment]:
        """One segment for all pairs of switches with the same number of equally long routes."""
        a = self.home[src]
        b = self.home[dst]
        hops = self.distance[a, b]
        k = self.n_routes[a, b].astype(np.int64)
        segments = []
        for length, count in np.unique(np.stack([hops, k], axis=1)[hops > 0], axis=0).tolist():
            rows = np.flatnonzero((hops == length) & (k == count))
            number = alternatives(pick(rows, count, dst[rows] % count), len(rows), count)
            segments.append(listed_routes(rows, self._walk(a[rows], b[rows], number, length)))
        return segments

    def _walk(self, a: IntArray, b: IntArray, number: IntArray, hops: int) -> IntArray:
        """Links [m, k, hops] of routes `number` [m, k] from switches `a` to switches `b` [m].

        At each switch, the neighbours that are nearer to the goal divide the range of route numbers among them, in the
        order of links, each in proportion to the number of routes from it.
        """
        at = np.broadcast_to(a[:, None], number.shape)
        remaining = number.astype(np.float64)
        goal = b[:, None]
        links = np.empty((*number.shape, hops), dtype=np.int64)
        for hop in range(hops):
            chosen = np.full(number.shape, -1)
            for port in range(int(np.diff(self.first_out)[at].max())):
                link = np.minimum(self.first_out[at] + port, len(self.cables.head) - 1)
                is_open = (self.first_out[at] + port < self.first_out[at + 1]) & (chosen < 0)
                nearer = is_open & (self.distance[self.cables.head[link], goal] == hops - hop - 1)
                routes_beyond = np.where(nearer, self.n_routes[self.cables.head[link], goal], 0.0)
                taken = nearer & (remaining < routes_beyond)
                chosen = np.where(taken, link, chosen)
                remaining = np.where(nearer & ~taken, remaining - routes_beyond, remaining)
            links[:, :, hop] = chosen
            at = self.cables.head[chosen]
        return self.first_link + links

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """The maximum flow, or a cut that is an upper bound of it (`between_halves`)."""
        return between_halves(self.home, first_half, nic_capacity, self.cables)

    def oversubscription(self, nic_capacity: FloatArray) -> float:
        """Rate of the NICs over rate of the cables to other switches, for the worst switch."""
        enters = np.bincount(self.home, nic_capacity, minlength=len(self.names))
        leaves = np.bincount(self.cables.tail, self.cables.capacity, minlength=len(self.names))
        has_both = (enters > 0) & (leaves > 0)
        return float((enters[has_both] / leaves[has_both]).max(initial=0.0)) or 1.0

    def port_problems(self) -> list[str]:
        """A switch needs a port for each NIC and each cable; the one that needs most is reported."""
        ports = np.bincount(self.home, minlength=len(self.names))
        ports += np.bincount(self.cables.tail, self.parallel, minlength=len(self.names)).astype(np.int64)
        worst = int(ports.argmax())
        return port_sentences(self.switch, {f"switch {self.names[worst]}": int(ports[worst])})


def build(
    builder: LinkBuilder, node: IntArray, plan: Plan, cable: Link, switch: Switch | None
) -> tuple[Graph, IntArray]:
    """Add switches and cables; return the fabric, and the vertex to which each NIC is attached.

    NIC i belongs to node `node[i]`. Raises ValueError where nodes cannot reach each other, or over too many routes.
    """
    number = {name: i for i, name in enumerate(plan.switches)}
    directed = [(number[edge.a], number[edge.b], edge) for edge in plan.edges]
    directed += [(b, a, edge) for a, b, edge in directed]
    directed.sort(key=lambda entry: entry[:2])
    tail = np.array([a for a, _, _ in directed], dtype=np.int64)
    head = np.array([b for _, b, _ in directed], dtype=np.int64)
    capacity = np.array([(edge.link or cable).capacity * edge.cables for _, _, edge in directed], dtype=np.float64)
    first_vertex = builder.add_layer("switch", len(plan.switches), names=plan.switches)
    extra = switch.latency if switch else 0.0
    first_link = 0
    for i, (a, b, edge) in enumerate(directed):
        ends = [first_vertex + a], [first_vertex + b]
        link = builder.add_links("cable", edge.link or cable, *ends, extra_latency=extra, bundle=edge.cables)
        first_link = link if i == 0 else first_link
    first_out = np.searchsorted(tail, np.arange(len(plan.switches) + 1))
    distance, n_routes = _shortest_routes(first_out, head)
    home = np.repeat(np.arange(len(plan.switches)), np.array(plan.nodes))[node]
    _refuse_unroutable(plan, np.unique(home), distance, n_routes)
    fabric = Graph(
        names=plan.switches,
        home=home,
        first_link=first_link,
        first_out=first_out,
        cables=Cables(tail, head, capacity),
        parallel=np.array([edge.cables for _, _, edge in directed], dtype=np.int64),
        distance=distance,
        n_routes=n_routes,
        switch=switch,
    )
    return fabric, first_vertex + home


def _refuse_unroutable(plan: Plan, used: IntArray, distance: IntArray, n_routes: FloatArray) -> None:
    """Raise ValueError where two of the switches with nodes, `used`, have no route between them, or too many."""
    hops = distance[np.ix_(used, used)]
    counts = n_routes[np.ix_(used, used)]
    if (hops < 0).any():
        i, j = (used[x] for x in np.argwhere(hops < 0)[0])
        raise ValueError(f"there is no route from switch {plan.switches[i]!r} to switch {plan.switches[j]!r}")
    if counts.max() > MAX_ROUTES:
        i, j = (used[x] for x in np.unravel_index(int(counts.argmax()), counts.shape))
        names = f"{plan.switches[i]!r} and {plan.switches[j]!r}"
        raise ValueError(f"{counts.max():,.0f} equally short routes between {names} are more than {MAX_ROUTES:,}")


def _shortest_routes(first_out: IntArray, head: IntArray) -> tuple[IntArray, FloatArray]:
    """Hops (-1: unreachable) and number of shortest routes between all pairs of switches, [s, s] each.

    The cables that leave switch v go to `head[first_out[v]:first_out[v + 1]]`. Several breadth-first searches run at
    once; a search state is the pair `start * n + switch`.
    """
    n = len(first_out) - 1
    distance = np.full(n * n, -1, dtype=np.int64)
    count = np.zeros(n * n)
    last_entry = np.empty(n * n, dtype=np.int64)
    for starts in np.split(np.arange(n), range(_STARTS_PER_SEARCH, n, _STARTS_PER_SEARCH)):
        frontier = starts * n + starts
        distance[frontier] = 0
        count[frontier] = 1.0
        hops = 0
        while len(frontier):
            hops += 1
            switch = frontier % n
            degree = first_out[switch + 1] - first_out[switch]
            port = np.arange(degree.sum()) - np.repeat(np.cumsum(degree) - degree, degree)
            reached = np.repeat(frontier - switch, degree) + head[np.repeat(first_out[switch], degree) + port]
            is_new = distance[reached] < 0
            routes_to = np.repeat(count[frontier], degree)[is_new]
            reached = reached[is_new]
            np.add.at(count, reached, routes_to)
            distance[reached] = hops
            # Keep one entry of each pair that was reached several times: the one written last.
            last_entry[reached] = np.arange(len(reached))
            frontier = reached[last_entry[reached] == np.arange(len(reached))]
    return distance.reshape(n, n), count.reshape(n, n)
