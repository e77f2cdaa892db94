"""Folding: simulate identical flows once. This is exact, not an approximation.

Colour the flows and the links of a network and refine until nothing changes: the colour of a link follows from the
multiset of (colour, weight) of the flows that cross it, the colour of a flow from those of the links it crosses. The
stable colouring is an *equitable partition* (colour refinement, or 1-dimensional Weisfeiler-Leman, on the flow-link
graph).

The quotient network, with one link and one flow per colour, has the same max-min rates as the whole network. The proof
is by induction over the rounds of progressive filling. Before a round all links of a colour have the same remaining
capacity and, by equitability, the same load, hence the same fair share. So the links of a colour fill together. Every
flow of a colour crosses the same number of links of each colour with the same weights, so the flows of a colour freeze
together at the same rate. The premise therefore holds before the next round. Flows of a colour have equal rates and
equal bytes, so they finish together; removing whole colours keeps the partition equitable, so one colouring is valid
until flows are added.

The proof also covers caps and fan-in. Flows with different caps start with different colours, and so do links with and
without a fan-in curve; links of a colour carry equally many flows at any time.

Anything that breaks symmetry (hash collisions in ECMP, a slow link, uneven sizes) makes colours finer. It never changes
the result. Colours are 64-bit hashes, and a multiset is represented by its sum of colour times odd hash of the weight;
two different multisets agree with a probability of about 2**-64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.cluster.hashing import Hashes, mix
from dessim.sim.fluid.maxmin import Incidence

_ROUNDS_BEFORE_MERGING = 2


class FoldsTooLittle(Exception):
    """Folding leaves more colours of flows than the caller allows."""


@dataclass(frozen=True, slots=True)
class Fold:
    """A folded network.

    `colour` [n_flows] is the colour of each flow. Colours are numbered by their first members. Per colour, `flow_of` is
    one of its flows and `count` the number of its flows. `net` is the quotient; per link of the quotient, `link_of` is
    one of the links it stands for. `links` are all links that a flow crosses.
    """

    colour: Ints
    flow_of: Ints
    count: Ints
    net: Incidence
    link_of: Ints
    links: Ints

    def compact(self) -> Fold:
        """The same with colours in as few bytes as possible, for a cache."""
        return replace(self, colour=self.colour.astype(np.min_scalar_type(len(self.flow_of))))

    def expanded(self) -> Fold:
        """The inverse of `compact`."""
        return replace(self, colour=self.colour.astype(np.int64))


def fold(net: Incidence, kind: Ints, enabled: bool = True) -> Fold:
    """Fold a network. Flows of different `kind` [n_flows] (bytes, start times) never share a colour.

    With `enabled=False` every flow has its own colour. Links that no flow crosses are dropped in either case.
    """
    compact, links = _without_unused_links(net)
    if not enabled or net.n_flows <= 1:
        flows = np.arange(net.n_flows, dtype=np.int64)
        return Fold(flows, flows, np.ones(net.n_flows, dtype=np.int64), compact, links, links)
    colour, flow_of, link_colour, link_of = _refine(compact, kind)
    # The load of a quotient link from colour c is the load that all flows of c put on the link's representative.
    is_representative = np.zeros(len(links), dtype=bool)
    is_representative[link_of] = True
    entries = np.flatnonzero(is_representative[compact.link])
    pair = colour[compact.flow[entries]] * len(link_of) + link_colour[compact.link[entries]]
    pairs, position = np.unique(pair, return_inverse=True)
    weight = np.bincount(position, compact.weight[entries]).astype(np.float64)
    quotient = Incidence(
        n_flows=len(flow_of),
        flow=pairs // len(link_of),
        link=pairs % len(link_of),
        weight=weight,
        capacity=compact.capacity[link_of],
        cap=None if net.cap is None else net.cap[flow_of],
        fan_in=compact.fan_in.at(link_of) if compact.fan_in else None,
    )
    return Fold(colour, flow_of, np.bincount(colour), quotient, links[link_of], links)


def number_rows(*columns: Floats) -> Ints:
    """A number for each row of parallel columns: equal for equal rows, different for others.

    Two different rows agree with a probability of about 2**-64, since numbers are hashes.
    """
    number = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        if (column != column[:1]).any():
            # Adding 0.0 turns -0.0 into 0.0, so that equal values have equal bits.
            number = mix(number + mix((column + 0.0).view(np.uint64)))
    return number.view(np.int64)


def number(values: Ints) -> tuple[Ints, Ints]:
    """Number values by their first occurrence; also the index of each first occurrence."""
    hashes = values.view(np.uint64)
    return _number(hashes, _distinct(hashes))


def _without_unused_links(net: Incidence) -> tuple[Incidence, Ints]:
    """The network with only the links that flows cross, numbered from 0, and their numbers in `net`."""
    links, link = _renumbered(net.link, len(net.capacity))
    fan_in = net.fan_in.at(links) if net.fan_in else None
    return replace(net, link=link, capacity=net.capacity[links], fan_in=fan_in), links


def _renumbered(link: Ints, n_links: int) -> tuple[Ints, Ints]:
    """The links that occur in `link` [nnz], ascending, and `link` as numbers of these. Faster than `np.unique`, which
    sorts."""
    used = np.zeros(n_links, dtype=bool)
    used[link] = True
    links = np.flatnonzero(used)
    number = np.zeros(n_links, dtype=np.int64)
    number[links] = np.arange(len(links))
    return links, number[link]


def _refine(net: Incidence, kind: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Stable colours of flows and of links, each numbered from 0 and followed by the first member of every colour."""
    weight = mix(net.weight.view(np.uint64)) | np.uint64(1)
    capacity = mix(net.capacity.view(np.uint64))
    flow_hash = mix(kind.astype(np.uint64))
    if net.fan_in is not None:
        capacity = mix(capacity + net.fan_in.receives)
    if net.cap is not None:
        flow_hash = mix(flow_hash + mix(net.cap.view(np.uint64)))
    whole = _Graph(net.flow, net.link, weight, weight, capacity)
    n_colours = len(_distinct(flow_hash))
    # Most networks are stable after two rounds, in which case merging would cost more than it saves.
    for _ in range(_ROUNDS_BEFORE_MERGING):
        link_hash, flow_hash = whole.round(flow_hash)
        values = _distinct(flow_hash)
        if len(values) == n_colours:
            break
        n_colours = len(values)
    else:
        graph, group, flow_hash = _merged(whole, flow_hash)
        n_colours = 0  # at least one more round
        while len(values) > n_colours:
            _, flow_hash = graph.round(flow_hash)
            n_colours = len(values)
            values = _distinct(flow_hash)
        flow_hash = flow_hash[group]
        link_hash, _ = whole.round(flow_hash)
    return *_number(flow_hash, values), *_number(link_hash, _distinct(link_hash))


@dataclass(frozen=True, slots=True)
class _Graph:
    """The hashed entries of a network. `capacity` is [n_links], the other arrays are [nnz].

    A flow contributes its hash times `load` to a link, a link its hash times `weight` to a flow.
    """

    flow: Ints
    link: Ints
    load: Hashes
    weight: Hashes
    capacity: Hashes

    def round(self, flow_hash: Hashes) -> tuple[Hashes, Hashes]:
        """One round: colour links by their flows, then refine flows by their links.

        Links are coloured from scratch in each round, so once they no longer split a flow colour both colourings are
        stable. Between identical hosts that mostly happens in the first round. The caller therefore counts colours of
        flows, not of links.
        """
        link_hash = mix(self.capacity + _sums(len(self.capacity), self.link, flow_hash[self.flow] * self.load))
        return link_hash, mix(flow_hash + _sums(len(flow_hash), self.flow, link_hash[self.link] * self.weight))


def _merged(graph: _Graph, flow_hash: Hashes) -> tuple[_Graph, Ints, Hashes]:
    """After a first round or a later one, merge flows of one colour that share the same links.

    Returns the merged graph, the merged flow of each flow, and the hashes of merged flows. A link with a single flow
    cannot refine that flow after the first round, so such links are dropped. Thus all flows of a colour from one leaf
    switch to another merge. Merging pays where colours spread from the ends of a shift, one leaf per round.
    """
    shared = np.flatnonzero((np.bincount(graph.link) > 1)[graph.link])
    flow = graph.flow[shared]
    link = graph.link[shared]
    path = mix(flow_hash + _sums(len(flow_hash), flow, mix(link.view(np.uint64)) * graph.weight[shared]))
    group, first = _number(path, _distinct(path))
    is_first = np.zeros(len(flow_hash), dtype=bool)
    is_first[first] = True
    keep = is_first[flow]
    flow = group[flow[keep]]
    weight = graph.weight[shared][keep]
    links, link = _renumbered(link[keep], len(graph.capacity))
    load = weight * np.bincount(group).astype(np.uint64)[flow]
    return _Graph(flow, link, load, weight, graph.capacity[links]), group, flow_hash[first]


def _sums(n: int, member: Ints, terms: Hashes) -> Hashes:
    """The sum of the terms of each of n members. Equal sums mean equal multisets, but for hash collisions."""
    total = np.zeros(n, dtype=np.uint64)
    np.add.at(total, member, terms)
    return total


def _distinct(hashes: Hashes) -> Hashes:
    """The distinct values, sorted. `np.unique` is slower: it hashes all values, or sorts indices for the inverse."""
    ordered = np.sort(hashes)
    new = np.ones(len(ordered), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    values: Hashes = ordered[new]
    return values


def _number(hashes: Hashes, values: Hashes) -> tuple[Ints, Ints]:
    """Number hashes by the first occurrence of their value; also the index of each first occurrence."""
    dense = np.searchsorted(values, hashes)
    first = np.empty(len(values), dtype=np.int64)
    first[dense[::-1]] = np.arange(len(hashes))[::-1]  # of several assignments numpy keeps the last
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return number[dense], first[order]
