"""Routes: which links a flow uses, with which share, computed for all flows at once.

A route is a sequence of segments. A segment offers each of its flows k equal alternatives of h links; the flow is
split evenly over them, so each of those links carries 1/k of it. A fabric knows what alternatives there are; which of
them a flow takes it asks of a `Pick` (the policies are in `dessim.cluster.routing.policy`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dessim.cluster.links import FloatArray, IntArray, Links
from dessim.cluster.parts import Switch

NO_LINK = -1
"""In a segment of unlike ways: this one has no such hop."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Part of the way of the flows `rows` [m] (each at most once): k alternatives of h links.

    Alternative j of row i is `first[i] + step[j]`; `first` [m, h] and `step` [k, h] (its first row is zero) stay apart
    because their sum is large: a flow across a three-tier fabric has a thousand alternatives. Where flows have unlike
    ways (`ways`), `step` is [m, k, h], and a sum of `NO_LINK` says that a way has no such hop; several of a flow's
    ways may share a link, whose shares then add up. `twins`: whoever uses one of the alternatives uses all k alike, so
    that they always carry the same load.
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
        """[m, 1, h]: at each hop the slowest of the twins, all that max-min sharing needs to know of them."""
        if links.even:
            return self.first[:, None, :]
        alternatives = self.links
        at: IntArray = np.argmin(links.capacity[alternatives], axis=1)[:, None, :]
        return np.take_along_axis(alternatives, at, axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """Links of n flows, as a sparse matrix in coordinate form, sorted by flow and in path order within a flow.

    `flow` [nnz] and `link` [nnz] are indices, `weight` [nnz] is the share of the flow on that link, `latency` [n] s is
    the sum over the path's links, the largest where a flow is split. `copies` [nnz] is how many links of equal load the
    entry stands for: 1 everywhere unless twins were left out.
    """

    flow: IntArray
    link: IntArray
    weight: FloatArray
    latency: FloatArray
    copies: FloatArray


class Pick(Protocol):
    """Which way flows go. A fabric asks once for each flow that has a choice, so one number names its whole way."""

    def __call__(self, rows: IntArray, k: int, static: IntArray) -> IntArray | None:
        """Which of k equal alternatives (0..k-1, [m]) each of the flows `rows` [m] takes; None: all, evenly.

        `rows` are positions in what the fabric was asked to route; `static` [m] is what routing by destination (as
        D-mod-k) would take.
        """
        ...


class Fabric(Protocol):
    """What joins the NICs. NICs are numbered node by node; `nic_capacity` [n_nics] is payload bytes/s of each."""

    @property
    def kind(self) -> str: ...

    @property
    def switch(self) -> Switch | None:
        """What its switches are; None where the file does not say."""
        ...

    @property
    def rail_aware(self) -> bool:
        """Whether traffic should change rail over NVLink before it leaves the node."""
        ...

    def segments(self, src: IntArray, dst: IntArray, pick: Pick) -> list[Segment]:
        """The way from the switch of each NIC `src` to that of each NIC `dst`; nothing where it is the same switch.

        Where `pick` says all, segments with alternatives (`twins` where that holds); else segments without any.
        """
        ...

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """Bytes/s that the NICs where `first_half` is 1 can send to the others, all at once."""
        ...

    def oversubscription(self, nic_capacity: FloatArray) -> float:
        """Bytes/s NICs can send over bytes/s the uplinks above them can carry, for the worst switch; 1 if none has."""
        ...

    def port_problems(self) -> list[str]:
        """Switches that would need more ports than they have."""
        ...


def path(rows: IntArray, *hops: IntArray) -> Segment:
    """A segment without alternatives: each flow of `rows` [m] uses `hops[0][i]`, then `hops[1][i]`, and so on."""
    return Segment(rows, np.stack(hops, axis=1), np.zeros((1, len(hops)), dtype=np.int64))


def ways(rows: IntArray, links: IntArray) -> Segment:
    """A segment of any links: `links` [m, k, h] are the ways of flows `rows` [m], `NO_LINK` where a hop is missing."""
    return Segment(rows, links[:, 0, :], links - links[:, :1, :])


def spread(k: int, hops: int) -> IntArray:
    """`Segment.step` for k alternatives whose links are next to each other at every hop."""
    return np.repeat(np.arange(k), hops).reshape(k, hops)


def assemble(n: int, segments: Sequence[Segment], links: Links, without_twins: bool = False) -> Routes:
    """Join segments, in the order given, into the routes of `n` flows. Linear in the number of entries, no sort.

    `without_twins` keeps one of each set of twins.
    """
    thin = without_twins and links.level  # one of the twins tells the latency of all
    kept = [s.one_of_twins(links) if thin and s.twins else s.links for s in segments]
    parts = [(s.rows, at, s.step.shape[-2]) for s, at in zip(segments, kept, strict=True) if len(s.rows)]
    counts = np.zeros(n, dtype=np.int64)
    for rows, alternatives, _ in parts:
        counts[rows] += alternatives.shape[1] * alternatives.shape[2]
    cursor = np.cumsum(counts) - counts
    link = np.empty(int(counts.sum()), dtype=np.int64)
    weight, copies = np.ones(len(link)), np.ones(len(link))
    latency = np.zeros(n)
    gaps = any(s.step.ndim == 3 for s in segments)
    seconds = np.append(links.latency, 0.0) if gaps else links.latency  # NO_LINK is the last
    for rows, alternatives, split in parts:
        m, k, h = alternatives.shape
        first = cursor[rows]
        at = first[:, None] + np.arange(k * h)
        cursor[rows] = first + k * h
        link[at] = alternatives.reshape(m, k * h)
        if split > 1:
            weight[at], copies[at] = 1.0 / split, split / k
        # Twins differ in rate at most, so one tells the latency of all. (Hop by hop: numpy is slow on short axes.)
        along = seconds[alternatives[:, :, 0]]
        for hop in range(1, h):
            along += seconds[alternatives[:, :, hop]]
        latency[rows] += along[:, 0] if k == 1 else along.max(axis=1)
    flow = np.repeat(np.arange(n), counts)
    if gaps:
        there = link != NO_LINK
        flow, link, weight, copies = flow[there], link[there], weight[there], copies[there]
    return Routes(flow, link, weight, latency, copies)
