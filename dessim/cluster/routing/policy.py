"""Routing policies: which of the equal routes that a fabric offers each flow takes.

- `split` uses all of them evenly: per-packet spraying, or ECMP with very many flows.
- `static` takes one by destination, as an InfiniBand subnet manager does with D-mod-k: (port of the destination on its
  leaf) mod k (Zahavi, "D-Mod-K Routing Providing Non-Blocking Traffic for Shift Permutations on Real Life Fat Trees",
  Technion CCIT 776, 2010).
- `ecmp` takes one by a hash of a stand-in for the 5-tuple: the seed, both ends, and the number of the flow among those
  of its pair (RFC 2992).
- `adaptive` takes the least loaded one when the flow starts. The flows of a batch choose one after the other, in their
  order. A flow takes the route whose busiest link has the least load with the flow on it, where load is bytes over
  capacity of everything that the batch has placed on the link so far. Ties go to the static route, or to the next one
  after it. Flows see no other batch, and keep their route.

Routes with a link that is down are avoided. Split flows use the remaining routes evenly. A static or hashed flow whose
route is down takes another of the remaining ones, and all other flows keep theirs, as with resilient hashing.

Routes are listed one by one only where necessary: for `adaptive` all of them (about 10 us per flow and 0.2 us per
route), for `split` all of them if links are down (50 bytes for each link of each route), and for the other policies
those of the flows that must move. Left out: flows that change their route while they run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dessim.cluster.hashing import Hashes, mix
from dessim.cluster.links import FloatArray, IntArray, Links
from dessim.cluster.routing.routes import NO_LINK, Fabric, Pick, Routes, Segment, assemble, listed_routes
from dessim.errors import CapacityError

_ROUTES_PER_BLOCK = 1 << 18
"""Routes that are listed at a time."""
_MAX_LISTED_LINKS = 1 << 26
"""Links of all listed routes of split flows; each takes some 50 bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class FlowRequests:
    """n flows to route, from NIC `src` to NIC `dst` [n].

    `size` [n] is in bytes, but only ratios matter. `key` [n] identifies the flows to the hash: flows with the same key
    take the same route.
    """

    src: IntArray
    dst: IntArray
    size: FloatArray
    key: IntArray

    def take(self, flows: IntArray) -> FlowRequests:
        """The requests of `flows`, which may contain a flow several times."""
        return FlowRequests(self.src[flows], self.dst[flows], self.size[flows], self.key[flows])


@dataclass(frozen=True, slots=True)
class Routing:
    """A policy, the seed of its hash, and the number of flows into which the traffic of a pair of GPUs is divided."""

    policy: str = "split"
    seed: int = 0
    flows_per_pair: int = 1

    def __post_init__(self) -> None:
        if self.policy not in ("split", "static", "ecmp", "adaptive"):
            raise ValueError(f"no routing policy is called {self.policy!r}")
        if self.flows_per_pair > 1 and self.policy in ("split", "static"):
            raise ValueError(f"{self.policy} routing takes the same routes for every flow of a pair")

    def segments(self, fabric: Fabric, links: Links, requests: FlowRequests, faulty: bool = False) -> list[Segment]:
        """Route each flow through `fabric`. `faulty` says that some of the fabric's links are down.

        A flow without a remaining route gets one that is down. Raises CapacityError where listing the routes would
        exceed memory.
        """
        n = len(requests.src)
        flow_of_route = np.repeat(np.arange(n), self.flows_per_pair)
        if self.flows_per_pair > 1:
            number_in_pair = np.tile(np.arange(self.flows_per_pair), n)
            key = requests.key[flow_of_route] * self.flows_per_pair + number_in_pair
            requests = FlowRequests(
                requests.src[flow_of_route], requests.dst[flow_of_route], requests.size[flow_of_route], key
            )
        pick = self._pick(requests)
        if self.policy == "adaptive":
            pick = _take_alternatives(_least_loaded(fabric, links, requests))
        elif faulty and self.policy == "split":
            flow_of_route, alternative = _all_up(fabric, links, requests)
            requests = requests.take(flow_of_route)
            pick = _take_alternatives(alternative)
        elif faulty:
            pick = _take_alternatives(self._avoiding_down_links(fabric, links, requests))
        segments = fabric.segments(requests.src, requests.dst, pick)
        if len(flow_of_route) == n:
            return segments
        return _merge_by_flow(assemble(len(flow_of_route), segments, links), flow_of_route, n)

    def _pick(self, requests: FlowRequests) -> Pick:
        """The choice of this policy where no link is down; `adaptive` chooses elsewhere."""
        if self.policy == "split":
            return lambda rows, k, static: None
        if self.policy == "static":
            return lambda rows, k, static: static
        hashed = self._hash(requests.key)
        return lambda rows, k, static: (hashed[rows] % np.uint64(k)).astype(np.int64)

    def _hash(self, key: IntArray) -> Hashes:
        return mix(mix(key.astype(np.uint64)) + np.uint64(self.seed))

    def _avoiding_down_links(self, fabric: Fabric, links: Links, requests: FlowRequests) -> IntArray:
        """The alternative of each flow, [n]: the policy's choice, or if that is down one of the remaining ones."""
        chosen = np.zeros(len(requests.src), dtype=np.int64)
        pick = self._pick(requests)

        def pick_and_record(rows: IntArray, k: int, static: IntArray) -> IntArray | None:
            picked = pick(rows, k, static)
            if picked is not None:
                chosen[rows] = picked
            return picked

        routes = assemble(len(chosen), fabric.segments(requests.src, requests.dst, pick_and_record), links)
        blocked = np.unique(routes.flow[links.capacity[routes.link] == 0])
        for candidates in _list_candidates(fabric, links, requests.take(blocked)):
            flows = blocked[candidates.flows]
            up, n_up = candidates.up(links)
            rehashed = mix(self._hash(requests.key[flows]))
            draw = chosen[flows].astype(np.uint64) if self.policy == "static" else rehashed
            nth = (draw % n_up.astype(np.uint64)).astype(np.int64)
            chosen[flows] = candidates.alternative[up[np.cumsum(n_up) - n_up + nth]]
        return chosen


@dataclass(frozen=True, slots=True, eq=False)
class _CandidateRoutes:
    """All routes of flows `flows` [m], one flow after the other.

    Candidate c is alternative `alternative[c]` of flow `flows[flow_row[c]]`; `routes` holds its links.
    """

    flows: IntArray
    flow_row: IntArray
    alternative: IntArray
    routes: Routes

    def up(self, links: Links) -> tuple[IntArray, IntArray]:
        """The candidates without a link that is down, and how many of them each flow has, [m].

        A flow whose candidates are all down keeps the first of them, so that the caller can name the link that is down.
        """
        down = np.zeros(len(self.flow_row), dtype=bool)
        down[self.routes.flow[links.capacity[self.routes.link] == 0]] = True
        cut_off = np.flatnonzero(np.bincount(self.flow_row[~down], minlength=len(self.flows)) == 0)
        down[np.searchsorted(self.flow_row, cut_off)] = False
        up = np.flatnonzero(~down)
        return up, np.bincount(self.flow_row[up], minlength=len(self.flows))

    def least_loaded(self, links: Links, size: FloatArray, load: FloatArray) -> IntArray:
        """The candidate that each flow takes, [m], one flow after the other; updates `load` [L], in seconds."""
        link = self.routes.link
        # The links of candidate c are entries entry[c] to entry[c + 1].
        entry = np.searchsorted(self.routes.flow, np.arange(len(self.flow_row) + 1))
        with np.errstate(divide="ignore"):
            added = self.routes.weight * size[self.flow_row][self.routes.flow] / links.capacity[link]
        first = np.searchsorted(self.flow_row, np.arange(len(self.flows) + 1))
        taken = first[:-1].copy()
        for flow, (a, b) in enumerate(zip(first[:-1].tolist(), first[1:].tolist(), strict=True)):
            start = entry[a]
            stop = entry[b]
            if start == stop:
                continue  # both ends are on one switch
            loaded = load[link[start:stop]] + added[start:stop]
            best = a + int(np.argmin(np.maximum.reduceat(loaded, entry[a:b] - start))) if b - a > 1 else a
            taken[flow] = best
            load[link[entry[best] : entry[best + 1]]] = loaded[entry[best] - start : entry[best + 1] - start]
        return taken


def _list_candidates(
    fabric: Fabric, links: Links, requests: FlowRequests, static_first: bool = False
) -> Iterator[_CandidateRoutes]:
    """List the routes of all flows, in blocks that fit in memory.

    The alternatives of a flow are in ascending order from 0, or cyclically from the static one (`static_first`).
    """
    n = len(requests.src)
    count = np.ones(n, dtype=np.int64)
    start = np.zeros(n, dtype=np.int64)

    def count_alternatives(rows: IntArray, k: int, static: IntArray) -> IntArray:
        count[rows] = k
        if static_first:
            start[rows] = static
        return static

    fabric.segments(requests.src, requests.dst, count_alternatives)
    block = np.cumsum(count) // _ROUTES_PER_BLOCK
    for flows in np.split(np.arange(n), np.flatnonzero(np.diff(block)) + 1):
        flow_row = np.repeat(np.arange(len(flows)), count[flows])
        nth = np.arange(len(flow_row)) - np.repeat(np.cumsum(count[flows]) - count[flows], count[flows])
        alternative = (start[flows][flow_row] + nth) % count[flows][flow_row]
        segments = fabric.segments(
            requests.src[flows][flow_row], requests.dst[flows][flow_row], _take_alternatives(alternative)
        )
        yield _CandidateRoutes(flows, flow_row, alternative, assemble(len(flow_row), segments, links))


def _least_loaded(fabric: Fabric, links: Links, requests: FlowRequests) -> IntArray:
    """The alternative that each flow takes under adaptive routing, [n]."""
    chosen = np.zeros(len(requests.src), dtype=np.int64)
    load = np.zeros(len(links))
    for candidates in _list_candidates(fabric, links, requests, static_first=True):
        taken = candidates.least_loaded(links, requests.size[candidates.flows], load)
        chosen[candidates.flows] = candidates.alternative[taken]
    return chosen


def _all_up(fabric: Fabric, links: Links, requests: FlowRequests) -> tuple[IntArray, IntArray]:
    """All routes that are up: the flow of each, ascending, and which of its alternatives it is."""
    flows = []
    alternatives = []
    n_listed_links = 0
    for candidates in _list_candidates(fabric, links, requests):
        up, _ = candidates.up(links)
        flows.append(candidates.flows[candidates.flow_row[up]])
        alternatives.append(candidates.alternative[up])
        n_listed_links += len(candidates.routes.link)
        if n_listed_links > _MAX_LISTED_LINKS:
            raise CapacityError(
                f"split routing around links that are down lists every route: more than {_MAX_LISTED_LINKS:,} links "
                f"for {len(requests.src):,} flows; choose ecmp or adaptive routing, or fewer GPUs"
            )
    return np.concatenate(flows), np.concatenate(alternatives)


def _take_alternatives(alternative: IntArray) -> Pick:
    """A pick that gives flow i alternative `alternative[i]`."""
    return lambda rows, k, static: alternative[rows]


def _merge_by_flow(routes: Routes, flow_of_route: IntArray, n: int) -> list[Segment]:
    """Turn separate routes into alternatives of the n flows they belong to, each of which splits evenly over its own.

    `flow_of_route` is ascending.
    """
    hops = np.bincount(routes.flow, minlength=len(flow_of_route))
    routes_of_flow = np.bincount(flow_of_route, minlength=n)
    table = np.full((len(flow_of_route), int(hops.max(initial=1))), NO_LINK)
    hop = np.arange(len(routes.flow)) - np.repeat(np.cumsum(hops) - hops, hops)
    table[routes.flow, hop] = routes.link
    segments = []
    for k in np.unique(routes_of_flow):  # a segment holds flows with the same number of routes
        flows = np.flatnonzero(routes_of_flow == k)
        links = table[routes_of_flow[flow_of_route] == k].reshape(-1, k, table.shape[1])
        segments.append(listed_routes(flows, links))
    return segments
