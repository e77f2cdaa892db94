"""Routing policies: which of the equal ways that a fabric offers each flow takes.

- `split` takes all of them evenly: per-packet spraying, or ECMP over very many flows.
- `static` takes one by destination, as an InfiniBand subnet manager does with D-mod-k: (port of the destination in its
  leaf) mod k (Zahavi, "D-Mod-K Routing Providing Non-Blocking Traffic for Shift Permutations on Real Life Fat Trees",
  Technion CCIT 776, 2010).
- `ecmp` takes one by a hash of what stands for the 5-tuple: seed, both ends, which of the pair's flows (RFC 2992).
- `adaptive` takes the least loaded at the start. Flows of a batch choose one after the other, in their order: the way
  whose busiest link is least busy with the flow on it, counted as bytes over capacity of what the batch has put on
  each link so far; of equals the static one, or the next after it. They see no other batch, and keep to their choice.

Links that are down are on no way that is taken. Split flows use the ways that are left, evenly; a static or hashed flow
whose way is down takes another of those left, the others stay where they are, as with resilient hashing. Ways are
listed one by one only where that is needed: all of them for `adaptive` (some 10 us a flow and 0.2 us a way), for
`split` with links down (50 bytes for each link of each way), of the flows that must move for the others. Left out:
flows that change their way while they run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dessim.cluster.hashing import Hashes, mix
from dessim.cluster.links import FloatArray, IntArray, Links
from dessim.cluster.routing.routes import NO_LINK, Fabric, Pick, Routes, Segment, assemble, ways
from dessim.errors import CapacityError

_BLOCK = 1 << 18  # ways that are listed at a time
_MOST = 1 << 26  # links of ways that may stay; they take some 50 bytes each


@dataclass(frozen=True, slots=True, eq=False)
class FlowRequests:
    """n flows from NIC `src` to NIC `dst` [n]: `size` [n] as bytes (only ratios matter), `key` [n] tells them apart.

    Flows with one key take one way where ways are hashed.
    """

    src: IntArray
    dst: IntArray
    size: FloatArray
    key: IntArray

    def take(self, flows: IntArray) -> FlowRequests:
        """Some of the flows, some maybe several times."""
        return FlowRequests(self.src[flows], self.dst[flows], self.size[flows], self.key[flows])


@dataclass(frozen=True, slots=True)
class Routing:
    """A policy, the seed of its hash, and as how many flows the traffic of a pair of GPUs goes."""

    policy: str = "split"
    seed: int = 0
    flows_per_pair: int = 1

    def __post_init__(self) -> None:
        if self.policy not in ("split", "static", "ecmp", "adaptive"):
            raise ValueError(f"no routing policy is called {self.policy!r}")
        if self.flows_per_pair > 1 and self.policy in ("split", "static"):
            raise ValueError(f"{self.policy} routing takes the same ways for every flow of a pair")

    def segments(self, fabric: Fabric, links: Links, traffic: FlowRequests, faulty: bool = False) -> list[Segment]:
        """The way of each flow through `fabric`; `faulty`: some of the fabric's links are down.

        A flow that no way is left to takes one that is down. Raises CapacityError where listing ways would take more
        memory than there is.
        """
        n, f = len(traffic.src), self.flows_per_pair
        of = np.repeat(np.arange(n), f)
        if f > 1:
            key = traffic.key[of] * f + np.tile(np.arange(f), n)
            traffic = FlowRequests(traffic.src[of], traffic.dst[of], traffic.size[of], key)
        pick = self._pick(traffic)
        if self.policy == "adaptive":
            pick = _exactly(_least_loaded(fabric, links, traffic))
        elif faulty and self.policy == "split":
            of, number = _all_left(fabric, links, traffic)
            traffic, pick = traffic.take(of), _exactly(number)
        elif faulty:
            pick = _exactly(self._around(fabric, links, traffic))
        segments = fabric.segments(traffic.src, traffic.dst, pick)
        if len(of) == n:
            return segments
        return _side_by_side(assemble(len(of), segments, links), of, n)

    def _pick(self, traffic: FlowRequests) -> Pick:
        if self.policy == "split":
            return lambda rows, k, static: None
        if self.policy == "static":
            return lambda rows, k, static: static
        hashed = self._hash(traffic.key)
        return lambda rows, k, static: (hashed[rows] % np.uint64(k)).astype(np.int64)

    def _hash(self, key: IntArray) -> Hashes:
        return mix(mix(key.astype(np.uint64)) + np.uint64(self.seed))

    def _around(self, fabric: Fabric, links: Links, traffic: FlowRequests) -> IntArray:
        """The alternative of each flow, [n]: as ever, unless that is down; then one of those that are left."""
        chosen, pick = np.zeros(len(traffic.src), dtype=np.int64), self._pick(traffic)

        def note(rows: IntArray, k: int, static: IntArray) -> IntArray | None:
            picked = pick(rows, k, static)
            if picked is not None:
                chosen[rows] = picked
            return picked

        routes = assemble(len(chosen), fabric.segments(traffic.src, traffic.dst, note), links)
        blocked = np.unique(routes.flow[links.capacity[routes.link] == 0])
        for offer in _listed(fabric, links, traffic.take(blocked)):
            flows = blocked[offer.flows]
            up, left = offer.left(links)
            again = mix(self._hash(traffic.key[flows]))
            draw = chosen[flows].astype(np.uint64) if self.policy == "static" else again
            nth = (draw % left.astype(np.uint64)).astype(np.int64)
            chosen[flows] = offer.number[up[np.cumsum(left) - left + nth]]
        return chosen


@dataclass(frozen=True, slots=True, eq=False)
class _Ways:
    """All ways of the flows `flows` [m], one flow after the other.

    Way w is alternative `number[w]` of flow `flows[of[w]]`; `routes` are its links.
    """

    flows: IntArray
    of: IntArray
    number: IntArray
    routes: Routes

    def left(self, links: Links) -> tuple[IntArray, IntArray]:
        """Ways without a link that is down, and how many each flow has: one at least, though it be down."""
        down = np.zeros(len(self.of), dtype=bool)
        down[self.routes.flow[links.capacity[self.routes.link] == 0]] = True
        none = np.flatnonzero(np.bincount(self.of[~down], minlength=len(self.flows)) == 0)
        down[np.searchsorted(self.of, none)] = False
        up = np.flatnonzero(~down)
        return up, np.bincount(self.of[up], minlength=len(self.flows))

    def least_loaded(self, links: Links, size: FloatArray, load: FloatArray) -> IntArray:
        """The way that each flow takes, [m], one after the other; `load` [L], in seconds, is brought up to date."""
        link, ways = self.routes.link, np.arange(len(self.of) + 1)
        entry = np.searchsorted(self.routes.flow, ways)  # where each way's links begin
        with np.errstate(divide="ignore"):
            adds = self.routes.weight * size[self.of][self.routes.flow] / links.capacity[link]
        first = np.searchsorted(self.of, np.arange(len(self.flows) + 1))
        taken = first[:-1].copy()
        for flow, (a, b) in enumerate(zip(first[:-1].tolist(), first[1:].tolist(), strict=True)):
            start, stop = entry[a], entry[b]
            if start == stop:
                continue  # both ends on one switch
            loaded = load[link[start:stop]] + adds[start:stop]
            best = a + int(np.argmin(np.maximum.reduceat(loaded, entry[a:b] - start))) if b - a > 1 else a
            taken[flow] = best
            load[link[entry[best] : entry[best + 1]]] = loaded[entry[best] - start : entry[best + 1] - start]
        return taken


def _listed(fabric: Fabric, links: Links, traffic: FlowRequests, static_first: bool = False) -> Iterator[_Ways]:
    """The ways of all flows, in blocks that fit the memory; a flow's from 0 on, or from the static one on and round."""
    n = len(traffic.src)
    count, start = np.ones(n, dtype=np.int64), np.zeros(n, dtype=np.int64)

    def ask(rows: IntArray, k: int, static: IntArray) -> IntArray:
        count[rows] = k
        if static_first:
            start[rows] = static
        return static

    fabric.segments(traffic.src, traffic.dst, ask)
    block = np.cumsum(count) // _BLOCK
    for flows in np.split(np.arange(n), np.flatnonzero(np.diff(block)) + 1):
        of = np.repeat(np.arange(len(flows)), count[flows])
        nth = np.arange(len(of)) - np.repeat(np.cumsum(count[flows]) - count[flows], count[flows])
        number = (start[flows][of] + nth) % count[flows][of]
        segments = fabric.segments(traffic.src[flows][of], traffic.dst[flows][of], _exactly(number))
        yield _Ways(flows, of, number, assemble(len(of), segments, links))


def _least_loaded(fabric: Fabric, links: Links, traffic: FlowRequests) -> IntArray:
    """The alternative that each flow takes, [n], one after the other."""
    chosen, load = np.zeros(len(traffic.src), dtype=np.int64), np.zeros(len(links))
    for offer in _listed(fabric, links, traffic, static_first=True):
        taken = offer.least_loaded(links, traffic.size[offer.flows], load)
        chosen[offer.flows] = offer.number[taken]
    return chosen


def _all_left(fabric: Fabric, links: Links, traffic: FlowRequests) -> tuple[IntArray, IntArray]:
    """All ways that are up: of which flow, ascending, and which alternative of it."""
    flows, numbers, entries = [], [], 0
    for offer in _listed(fabric, links, traffic):
        up, _ = offer.left(links)
        flows.append(offer.flows[offer.of[up]])
        numbers.append(offer.number[up])
        entries += len(offer.routes.link)
        if entries > _MOST:
            raise CapacityError(
                f"split routing round links that are down lists every way: more than {_MOST:,} links "
                f"for {len(traffic.src):,} flows; choose ecmp or adaptive routing, or fewer GPUs"
            )
    return np.concatenate(flows), np.concatenate(numbers)


def _exactly(number: IntArray) -> Pick:
    """Flow i takes alternative `number[i]`."""
    return lambda rows, k, static: number[rows]


def _side_by_side(routes: Routes, of: IntArray, n: int) -> list[Segment]:
    """Ways as alternatives of the flows `of` (ascending, of n) that they belong to, each split evenly over its own."""
    hops, lanes = np.bincount(routes.flow, minlength=len(of)), np.bincount(of, minlength=n)
    table = np.full((len(of), int(hops.max(initial=1))), NO_LINK)
    table[routes.flow, np.arange(len(routes.flow)) - np.repeat(np.cumsum(hops) - hops, hops)] = routes.link
    every = [
        (np.flatnonzero(lanes == k), table[lanes[of] == k].reshape(-1, k, table.shape[1])) for k in np.unique(lanes)
    ]
    return [ways(rows, links) for rows, links in every]
