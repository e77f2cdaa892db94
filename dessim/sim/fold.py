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

What breaks symmetry (hash collisions, a slow link, uneven sizes) makes colours finer, never the answer different.
Colours are 64-bit hashes and a multiset is compared by its sum of colour times odd hash of the weight: two that differ
agree with a probability of some 2**-64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dessim.sim.maxmin import Incidence, Ints

Hashes = npt.NDArray[np.uint64]


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
    """Fold a network. `kind` [n_flows] tells flows apart that must not share a colour (bytes, caps, start times).

    With `enabled` false every flow keeps a colour of its own; links no flow crosses are dropped either way.
    """
    used = np.zeros(len(net.capacity), dtype=bool)
    used[net.link] = True
    links = np.flatnonzero(used)
    number = np.zeros(len(used), dtype=np.int64)
    number[links] = np.arange(len(links))
    capacity = net.capacity[links]
    compact = Incidence(net.n_flows, net.flow, number[net.link], net.weight, capacity)
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
    quotient = Incidence(len(flow_of), pairs // len(link_rep), pairs % len(link_rep), weight, capacity[link_rep])
    return Fold(colour, flow_of, np.bincount(colour), quotient, links[link_rep], links)


def _refine(net: Incidence, kind: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Stable colours of flows and links, numbered from 0, each with the first member of every colour.

    Links are coloured anew from the flows each round, so as soon as they split no flow colour both are stable: between
    alike hosts mostly in the first round, which is why the flows are counted and not the links.
    """
    weight = mix(net.weight.view(np.uint64)) | np.uint64(1)
    capacity = mix(net.capacity.view(np.uint64))
    flow_hash = mix(kind.astype(np.uint64))
    values = _values(flow_hash)
    while True:
        link_hash = mix(capacity + _sums(len(capacity), net.link, flow_hash[net.flow] * weight))
        flow_hash = mix(flow_hash + _sums(net.n_flows, net.flow, link_hash[net.link] * weight))
        colours, values = len(values), _values(flow_hash)
        if len(values) == colours:
            return *_number(flow_hash, values), *_number(link_hash, _values(link_hash))


def _sums(n: int, member: Ints, terms: Hashes) -> Hashes:
    """The sum of each member's terms: equal sums, almost surely equal multisets."""
    total = np.zeros(n, dtype=np.uint64)
    np.add.at(total, member, terms)
    return total


def mix(x: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014): a bijection that scatters every bit."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


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
