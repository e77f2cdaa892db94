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
Colours are compared by sums of random 64-bit labels: two different multisets agree with probability 2**-64 a pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dessim.sim.maxmin import Incidence, Ints

Labels = npt.NDArray[np.uint64]


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
    links, link = np.unique(net.link, return_inverse=True)
    capacity = net.capacity[links]
    compact = Incidence(net.n_flows, net.flow, link.astype(np.int64), net.weight, capacity)
    if not enabled or net.n_flows <= 1:
        flows = np.arange(net.n_flows, dtype=np.int64)
        return Fold(flows, flows, np.ones(net.n_flows, dtype=np.int64), compact, links)
    colour, link_colour = _refine(compact, kind)
    _, flow_of, count = np.unique(colour, return_index=True, return_counts=True)
    _, link_rep = np.unique(link_colour, return_index=True)
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
    rng = np.random.default_rng(0x5EED)  # labels, not data: any seed gives the same partition
    by_link = np.argsort(net.link, kind="stable")
    flow_starts, link_starts = _starts(net.flow), _starts(net.link[by_link])
    flows_seen, links_seen = net.flow[flow_starts], net.link[by_link][link_starts]
    _, weight_class = np.unique(net.weight, return_inverse=True)
    weight_label = _labels(rng, int(weight_class.max(initial=0)) + 1)[weight_class]
    flow_colour = _dense(kind)
    link_colour = _dense(net.capacity)
    counts = (-1, -1)
    while True:
        labels = _labels(rng, int(link_colour.max(initial=0)) + 1)
        flow_colour = _split(flow_colour, labels[link_colour][net.link] * weight_label, flow_starts, flows_seen, rng)
        labels = _labels(rng, int(flow_colour.max(initial=0)) + 1)
        terms = (labels[flow_colour][net.flow] * weight_label)[by_link]
        link_colour = _split(link_colour, terms, link_starts, links_seen, rng)
        now = (int(flow_colour.max(initial=-1)), int(link_colour.max(initial=-1)))
        if now == counts:
            return flow_colour, link_colour
        counts = now


def _split(colour: Ints, terms: Labels, starts: Ints, seen: Ints, rng: np.random.Generator) -> Ints:
    """Refine `colour` by the sum of each member's terms (entries are grouped, `starts` their beginnings)."""
    signature = _labels(rng, int(colour.max(initial=0)) + 1)[colour]
    if len(starts):
        signature[seen] += np.add.reduceat(terms, starts)
    return _dense(signature)


def _labels(rng: np.random.Generator, n: int) -> Labels:
    # Odd labels: products of them lose no bits modulo 2**64.
    return rng.integers(0, 2**64, size=n, dtype=np.uint64, endpoint=False) | np.uint64(1)


def _starts(grouped: Ints) -> Ints:
    """Where each run of equal values begins."""
    if not len(grouped):
        return np.zeros(0, dtype=np.int64)
    return np.concatenate([[0], np.flatnonzero(np.diff(grouped)) + 1]).astype(np.int64)


def _dense(values: npt.NDArray[np.generic]) -> Ints:
    dense: Ints = np.unique(values, return_inverse=True)[1].astype(np.int64)
    return dense
