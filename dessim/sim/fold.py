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
Colours are 64-bit hashes and multisets are compared by sums of them: two that differ agree with probability 2**-64.
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
    have it. `net` is the quotient; `link_of` gives one full-network link for each of its links.
    """

    colour: Ints
    flow_of: Ints
    count: Ints
    net: Incidence
    link_of: Ints


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
        return Fold(flows, flows, np.ones(net.n_flows, dtype=np.int64), compact, links)
    colour, link_colour = _refine(compact, kind)
    _, flow_of, count = np.unique(colour, return_index=True, return_counts=True)
    # Colours of links are numbered by their first link, so that the quotient keeps the order of the whole.
    _, first, colour_of = np.unique(link_colour, return_index=True, return_inverse=True)
    link_rep = np.sort(first)
    link_colour = np.argsort(np.argsort(first))[colour_of]
    # A quotient link's load from colour c: what all flows of c put on its representative.
    representative = np.zeros(len(links), dtype=bool)
    representative[link_rep] = True
    seen = representative[compact.link]
    pair = colour[compact.flow[seen]] * len(link_rep) + link_colour[compact.link[seen]]
    pairs, position = np.unique(pair, return_inverse=True)
    weight = np.bincount(position, compact.weight[seen]).astype(np.float64)
    quotient = Incidence(len(flow_of), pairs // len(link_rep), pairs % len(link_rep), weight, capacity[link_rep])
    return Fold(colour, flow_of, count, quotient, links[link_rep])


def _refine(net: Incidence, kind: Ints) -> tuple[Ints, Ints]:
    """Stable colours of flows and links, numbered from 0."""
    weight = _mix(net.weight.view(np.uint64))
    flow_colour = _mix(kind.astype(np.uint64))
    link_colour = _mix(net.capacity.view(np.uint64))
    counts = (0, 0)
    while True:
        flow_colour = _split(flow_colour, net.flow, _mix(link_colour[net.link] ^ weight))
        link_colour = _split(link_colour, net.link, _mix(flow_colour[net.flow] ^ weight))
        now = (len(np.unique(flow_colour)), len(np.unique(link_colour)))
        if now == counts:
            return _dense(flow_colour), _dense(link_colour)
        counts = now


def _split(colour: Hashes, member: Ints, terms: Hashes) -> Hashes:
    """Refine each member's colour by the sum of its terms: equal sums, almost surely equal multisets."""
    total = np.zeros(len(colour), dtype=np.uint64)
    np.add.at(total, member, terms)
    return _mix(_mix(colour) + total)


def _mix(x: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014): a bijection that scatters every bit."""
    x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64, copy=False)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _dense(hashes: Hashes) -> Ints:
    dense: Ints = np.unique(hashes, return_inverse=True)[1].astype(np.int64)
    return dense
