"""Routes: which links each flow uses and which share of it each link carries, computed for all flows at once.

A route is a sequence of segments. A segment offers each of its flows k equal alternatives of h links. A flow either
splits evenly over the alternatives, so that each of those links carries 1/k of it, or takes one of them. A fabric knows
which alternatives exist; a `Pick` decides which of them a flow takes (`dessim.cluster.routing.policy`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dessim.cluster.links import FloatArray, IntArray, Links
from dessim.cluster.parts import Switch

NO_LINK = -1
"""Fills the hops that a shorter route lacks where a segment lists routes of different lengths."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One section of the routes of flows `rows` [m] (each at most once): k alternatives of h links.

    Alternative j of row i is `first[i] + step[j]`, with `first` [m, h] and `step` [k, h], whose first row is zero. The
    two stay separate because their sum is large: a flow across a three-tier fabric has a thousand alternatives. Where
    the alternatives differ from flow to flow (`listed_routes`), `step` is [m, k, h]. A sum of `NO_LINK` then means that
    an alternative has no such hop, and several alternatives of a flow may share a link, whose shares add up.

    `twins` says that every flow that uses one of the alternatives uses all k equally. Their links, called twins, then
    always carry the same load.
    """

    rows: IntArray
    first: IntArray
    step: IntArray
    twins: bool = False

    @property
    def links(self) -> IntArray:
        """All alternatives, [m, k, h]."""
        alternatives: IntArray = self.first[:, None, :] + self.step
        return alternatives

    def one_of_twins(self, links: Links) -> IntArray:
        """The slowest of the twins at each hop, [m, 1, h]: all that max-min sharing needs to know about them."""
        if links.uniform_capacity:
            return self.first[:, None, :]
        alternatives = self.links
        slowest: IntArray = np.argmin(links.capacity[alternatives], axis=1)[:, None, :]
        return np.take_along_axis(alternatives, slowest, axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """Links of n flows as a sparse matrix in coordinate form, sorted by flow and in path order within a flow.

    `flow` and `link` [nnz] are indices, and `weight` [nnz] is the share of the flow on that link. `latency` [n] in
    seconds is the sum over the links of the route; where a flow is split, that of its slowest alternative. `copies`
    [nnz] is the number of equally loaded links that an entry stands for: 1 everywhere unless twins were left out.
    """

    flow: IntArray
    link: IntArray
    weight: FloatArray
    latency: FloatArray
    copies: FloatArray


class RouteProvider(Protocol):
    """A source of routes between GPUs.

    A cluster computes routes from its fabric and routing policy, unless it is given another provider
    (`Cluster.route_provider`).
    """

    def routes(
        self, src: IntArray, dst: IntArray, *, without_twins: bool = False, size: FloatArray | None = None
    ) -> Routes:
        """Return the routes of n flows from GPU `src` to GPU `dst` [n].

        `without_twins` allows one link to stand for several that always carry the same load (`Routes.copies`). `size`
        [n] in bytes, equal for all unless given, is an input to adaptive routing.
        """
        ...


class Pick(Protocol):
    """The choice among alternatives. A fabric asks once for each flow that has a choice: one number fixes its route."""

    def __call__(self, rows: IntArray, k: int, static: IntArray) -> IntArray | None:
        """Return which of k equal alternatives (0..k-1, [m]) each of flows `rows` [m] takes, or None: all, evenly.

        `rows` are positions in the arrays that the fabric was asked to route. `static` [m] is the alternative that
        destination-based routing (such as D-mod-k) would take.
        """
        ...


class Fabric(Protocol):
    """The network that joins the NICs, which are numbered node by node.

    `nic_capacity` [n_nics] is the payload rate of each NIC in bytes/s.
    """

    @property
    def kind(self) -> str: ...

    @property
    def switch(self) -> Switch | None:
        """The part that its switches are; None where the topology file does not say."""
        ...

    @property
    def rail_aware(self) -> bool:
        """Whether traffic should change rail over NVLink before it leaves the node."""
        ...

    def segments(self, src: IntArray, dst: IntArray, pick: Pick) -> list[Segment]:
        """Route flows from the switch of NIC `src` to the switch of NIC `dst` [n]; none where it is the same switch.

        Where `pick` returns None the segments have alternatives (`twins` where that holds), elsewhere they have none.
        """
        ...

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """Bytes/s that the NICs where `first_half` [n_nics] is 1 can send to the others, all at once."""
        ...

    def oversubscription(self, nic_capacity: FloatArray) -> float:
        """Bytes/s of the NICs below a switch over bytes/s of its uplinks, for the worst switch; 1 without uplinks."""
        ...

    def port_problems(self) -> list[str]:
        """One sentence for each kind of switch that needs more ports than it has."""
        ...


def single_route(rows: IntArray, *hops: IntArray) -> Segment:
    """A segment without alternatives: each flow of `rows` [m] uses `hops[0][i]`, then `hops[1][i]`, and so on."""
    return Segment(rows, np.stack(hops, axis=1), np.zeros((1, len(hops)), dtype=np.int64))


def listed_routes(rows: IntArray, links: IntArray) -> Segment:
    """A segment of arbitrary alternatives: `links` [m, k, h] for flows `rows` [m], `NO_LINK` where a hop is missing."""
    return Segment(rows, links[:, 0, :], links - links[:, :1, :])


def consecutive(k: int, hops: int) -> IntArray:
    """`Segment.step` for k alternatives whose links have consecutive ids at every hop, [k, hops]."""
    return np.repeat(np.arange(k), hops).reshape(k, hops)


def assemble(n: int, segments: Sequence[Segment], links: Links, without_twins: bool = False) -> Routes:
    """Join segments, in the order given, into the routes of `n` flows. Linear in the number of entries, without a sort.

    `without_twins` keeps one of each set of twins.
    """
    # One twin is enough for the latency of all only if links of a kind have the same latency.
    drop_twins = without_twins and links.uniform_latency
    pieces = []
    counts = np.zeros(n, dtype=np.int64)
    for segment in segments:
        if len(segment.rows):
            alternatives = segment.one_of_twins(links) if drop_twins and segment.twins else segment.links
            pieces.append((segment.rows, alternatives, segment.step.shape[-2]))
            counts[segment.rows] += alternatives.shape[1] * alternatives.shape[2]
    cursor = np.cumsum(counts) - counts
    link = np.empty(int(counts.sum()), dtype=np.int64)
    weight = np.ones(len(link))
    copies = np.ones(len(link))
    latency = np.zeros(n)
    has_gaps = any(segment.step.ndim == 3 for segment in segments)
    seconds = np.append(links.latency, 0.0) if has_gaps else links.latency  # NO_LINK = -1 indexes the appended zero
    for rows, alternatives, split in pieces:
        m, k, h = alternatives.shape
        first = cursor[rows]
        at = first[:, None] + np.arange(k * h)
        cursor[rows] = first + k * h
        link[at] = alternatives.reshape(m, k * h)
        if split > 1:
            weight[at] = 1.0 / split
            copies[at] = split / k
        # Hop by hop, because numpy reductions over short axes are slow.
        path_latency = seconds[alternatives[:, :, 0]]
        for hop in range(1, h):
            path_latency += seconds[alternatives[:, :, hop]]
        latency[rows] += path_latency[:, 0] if k == 1 else path_latency.max(axis=1)
    flow = np.repeat(np.arange(n), counts)
    if has_gaps:
        exists = link != NO_LINK
        return Routes(flow[exists], link[exists], weight[exists], latency, copies[exists])
    return Routes(flow, link, weight, latency, copies)
