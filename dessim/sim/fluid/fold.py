"""Folding: identical flows are simulated once. Exact, not an approximation.

Colour the flows and links of a network; refine until stable: a link's colour by the multiset of (colour, weight) of the
flows that cross it, a flow's by that of the links it crosses. The stable colouring is an *equitable partition* (colour
refinement, 1-dimensional Weisfeiler-Leman on the flow-link graph).

Why the quotient (one link and one flow a colour) has the same max-min rates as the whole: by induction over the rounds
of progressive filling. Before a round all links of a colour have the same remaining capacity, and by equitability the
same load, hence the same fair share; so a colour's links fill together, and since every flow of a colour crosses the
same number of links of each colour with the same weights, the flows of a colour freeze together at the same rate. That
leaves the premise true for the next round. Equal rates and equal bytes finish together, and removing whole colours
keeps the partition equitable, so one colouring serves until flows are added.

A flow's cap and a receiver's fan-in change nothing: caps tell flows apart from the start, links where fan-in counts are
told from others, and the flows that meet on a link of a colour are as many on each, at any time.

What breaks symmetry (hash collisions, a slow link, uneven sizes) makes colours finer, never the answer different.
Colours are 64-bit hashes and a multiset is compared by its sum of colour times odd hash of the weight: two that differ
agree with a probability of some 2**-64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dessim.arrays import Ints
from dessim.cluster.hashing import Hashes, mix
from dessim.sim.fluid.maxmin import Incidence


@dataclass(frozen=True, slots=True)
class Fold:
    """A folded network.

    `colour` [n_flows] gives each flow's colour; `flow_of` [colours] one flow of each; `count` [colours] how many flows
    have it. `net` is the quotient; `link_of` gives one full-network link for each of its links. Colours are numbered
    by their first members. `links` are all links that a flow crosses.
    """

    colour: Ints
    flow_of: Ints
    count: Ints
    net: Incidence
    link_of: Ints
    links: Ints


def fold(net: Incidence, kind: Ints, enabled: bool = True) -> Fold:
    """Fold a network. `kind` [n_flows] tells flows apart that must not share a colour (bytes, start times).

    With `enabled` false every flow keeps a colour of its own; links no flow crosses are dropped either way.
    """
    used = np.zeros(len(net.capacity), dtype=bool)
    used[net.link] = True
    links = np.flatnonzero(used)
    number = np.zeros(len(used), dtype=np.int64)
    number[links] = np.arange(len(links))
    capacity = net.capacity[links]
    fan_in = net.fan_in.at(links) if net.fan_in else None
    compact = replace(net, link=number[net.link], capacity=capacity, fan_in=fan_in)
    if not enabled or net.n_flows <= 1:
        flows = np.arange(net.n_flows, dtype=np.int64)
        return Fold(flows, flows, np.ones(net.n_flows, dtype=np.int64), compact, links, links)
    colour, flow_of, link_colour, link_rep = _refine(compact, kind)
    # A quotient link's load from colour c: what all flows of c put on its representative.
    representative = np.zeros(len(links), dtype=bool)
    representative[link_rep] = True
    seen = np.flatnonzero(representative[compact.link])
    pair = colour[compact.flow[seen]] * len(link_rep) + link_colour[compact.link[seen]]
    pairs, position = np.unique(pair, return_inverse=True)
    weight = np.bincount(position, compact.weight[seen]).astype(np.float64)
    quotient = Incidence(
        len(flow_of),
        pairs // len(link_rep),
        pairs % len(link_rep),
        weight,
        capacity[link_rep],
        cap=None if net.cap is None else net.cap[flow_of],
        fan_in=fan_in.at(link_rep) if fan_in else None,
    )
    return Fold(colour, flow_of, np.bincount(colour), quotient, links[link_rep], links)


def _refine(net: Incidence, kind: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Stable colours of flows and links, numbered from 0, each with the first member of every colour."""
    weight = mix(net.weight.view(np.uint64)) | np.uint64(1)
    capacity, flow_hash = mix(net.capacity.view(np.uint64)), mix(kind.astype(np.uint64))
    if net.fan_in is not None:
        capacity = mix(capacity + net.fan_in.receives)
    if net.cap is not None:
        flow_hash = mix(flow_hash + mix(net.cap.view(np.uint64)))
    whole = _Graph(net.flow, net.link, weight, weight, capacity)
    colours = len(_values(flow_hash))
    link_hash, flow_hash = whole.round(flow_hash)
    values = _values(flow_hash)
    if len(values) > colours:
        graph, group, flow_hash = _merged(whole, flow_hash)
        while len(values) > colours:
            _, flow_hash = graph.round(flow_hash)
            colours, values = len(values), _values(flow_hash)
        flow_hash = flow_hash[group]
        link_hash, _ = whole.round(flow_hash)
    return *_number(flow_hash, values), *_number(link_hash, _values(link_hash))


@dataclass(frozen=True, slots=True)
class _Graph:
    """Hashed entries of a network: a flow counts `load` on a link, a link `weight` in a flow. `capacity` [n_links]."""

    flow: Ints
    link: Ints
    load: Hashes
    weight: Hashes
    capacity: Hashes

    def round(self, flow_hash: Hashes) -> tuple[Hashes, Hashes]:
        """Links coloured by their flows, then flows refined by their links.

        Links are coloured anew each time, so as soon as they split no flow colour both are stable: between alike hosts
        mostly in the first round, which is why the flows are counted and not the links.
        """
        link_hash = mix(self.capacity + _sums(len(self.capacity), self.link, flow_hash[self.flow] * self.load))
        return link_hash, mix(flow_hash + _sums(len(flow_hash), self.flow, link_hash[self.link] * self.weight))


def _merged(graph: _Graph, flow_hash: Hashes) -> tuple[_Graph, Ints, Hashes]:
    """After a first round: the graph where flows of one colour that share the same links are one; which is which.

    A link of a single flow tells it nothing new after the first round and is left out, so what is merged is all that
    goes from one leaf to another. It pays where colours spread from the ends of a shift, a leaf a round.
    """
    shared = np.flatnonzero((np.bincount(graph.link) > 1)[graph.link])
    flow, link = graph.flow[shared], graph.link[shared]
    path = mix(flow_hash + _sums(len(flow_hash), flow, mix(link.view(np.uint64)) * graph.weight[shared]))
    group, first = _number(path, _values(path))
    kept = np.zeros(len(flow_hash), dtype=bool)
    kept[first] = True
    kept = kept[flow]
    flow, weight = group[flow[kept]], graph.weight[shared][kept]
    links, link = np.unique(link[kept], return_inverse=True)
    load = weight * np.bincount(group).astype(np.uint64)[flow]
    return _Graph(flow, link, load, weight, graph.capacity[links]), group, flow_hash[first]


def _sums(n: int, member: Ints, terms: Hashes) -> Hashes:
    """The sum of each member's terms: equal sums, almost surely equal multisets."""
    total = np.zeros(n, dtype=np.uint64)
    np.add.at(total, member, terms)
    return total


def _values(hashes: Hashes) -> Hashes:
    """The different values, sorted. (`np.unique` takes longer: to hash all, or to argsort them for the inverse.)"""
    ordered = np.sort(hashes)
    new = np.ones(len(ordered), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    values: Hashes = ordered[new]
    return values


def _number(hashes: Hashes, values: Hashes) -> tuple[Ints, Ints]:
    """Number equal hashes alike, in the order of their first members; and those members."""
    dense = np.searchsorted(values, hashes)
    first = np.empty(len(values), dtype=np.int64)
    first[dense[::-1]] = np.arange(len(hashes))[::-1]  # the last assignment stays
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return number[dense], first[order]
