"""Two tiers: leaves that hold the NICs, spines that join the leaves, every leaf to every spine.

All NICs of a node are on one leaf; `rail.py` attaches them differently and reuses this fabric. Parallel cables between
a leaf and a spine count as one link of their summed capacity, which flatters static routing where one flow could fill
a cable. Oversubscription is whatever the numbers of NICs, spines and the rates give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.fabrics.direct import fullest, halves, port_on
from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.parts import Link, Switch
from dessim.cluster.routing.routes import Pick, Segment, path, spread


@dataclass(frozen=True, slots=True, eq=False)
class LeafSpine:
    """Leaves and spines; `leaf` and `port` [n_nics] say on which leaf a NIC is, and on which of its ports.

    The link from leaf a to spine s is `up + a * spines + s`, the one back `down + a * spines + s`. Leaves fall into
    `parts` equal runs, each with `spines` spines of its own and no way to the others.
    """

    kind: str
    rail_aware: bool
    leaf: IntArray
    port: IntArray
    leaves: int
    spines: int
    links_per_spine: int
    uplink: Link | None
    switch: Switch | None
    up: int
    down: int
    parts: int = 1

    @property
    def uplinks(self) -> float:
        """Payload bytes/s from a leaf to all its spines."""
        return self.uplink.capacity * self.links_per_spine * self.spines if self.uplink else 0.0

    def segments(self, src: IntArray, dst: IntArray, pick: Pick) -> list[Segment]:
        """Up to a spine and down again, for NICs on different leaves."""
        a, b = self.leaf[src], self.leaf[dst]
        rows = np.flatnonzero(a != b)
        if self.parts > 1 and (a * self.parts // self.leaves != b * self.parts // self.leaves).any():
            raise ValueError(f"a {self.kind} fabric has no way between leaves of different parts")
        if not len(rows):
            return []
        up = self.up + a[rows] * self.spines
        down = self.down + b[rows] * self.spines
        spine = pick(rows, self.spines, self.port[dst[rows]] % self.spines)
        if spine is not None:
            return [path(rows, up + spine, down + spine)]
        # Split flows load all uplinks of a leaf alike, and all its downlinks.
        return [Segment(rows, np.stack([up, down], axis=1), spread(self.spines, 2), twins=True)]

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """Closed form of the maximum flow from one half to the other.

        In a leaf that both halves share, traffic turns round at the leaf first: that uses no uplink and never costs
        more than it brings. What is left goes up as far as the uplinks carry it, and comes down elsewhere.
        """
        inside, outside = halves(self.leaf, first_half, nic_capacity, self.leaves)
        turned = np.minimum(inside, outside)
        upward = np.minimum(inside - turned, self.uplinks).reshape(self.parts, -1).sum(axis=1)
        downward = np.minimum(outside - turned, self.uplinks).reshape(self.parts, -1).sum(axis=1)
        return float(turned.sum() + np.minimum(upward, downward).sum())

    def oversubscription(self, nic_capacity: FloatArray) -> float:
        """Of the fullest leaf."""
        if self.leaves == self.parts:
            return 1.0
        return fullest(self.leaf, nic_capacity) / self.uplinks

    def port_problems(self) -> list[str]:
        """Leaves need a port a NIC and a cable, spines a port a cable."""
        if self.switch is None:
            return []
        leaf_ports = int(np.bincount(self.leaf).max()) + self.spines * self.links_per_spine
        spine_ports = self.leaves // self.parts * self.links_per_spine
        has = f"a {self.switch.name} has {self.switch.ports}"
        problems = []
        if leaf_ports > self.switch.ports:
            problems.append(f"a leaf needs {leaf_ports} ports, {has}")
        if spine_ports > self.switch.ports:
            problems.append(f"a spine needs {spine_ports} ports, {has}")
        return problems


@dataclass(frozen=True, slots=True)
class Tiers:
    """What a file says about the two tiers; `uplink` is None where there are no spines."""

    spines: int
    links_per_spine: int
    uplink: Link | None
    switch: Switch | None


def build(builder: LinkBuilder, leaf: IntArray, tiers: Tiers) -> tuple[LeafSpine, IntArray]:
    """The fabric, and the vertex each NIC is attached to: a vertex of leaf `leaf` [n_nics]."""
    return join(builder, tiers, "leaf_spine", leaf, port_on(leaf))


def join(
    builder: LinkBuilder,
    tiers: Tiers,
    kind: str,
    leaf: IntArray,
    port: IntArray,
    *,
    rail_aware: bool = False,
    parts: int = 1,
) -> tuple[LeafSpine, IntArray]:
    """Leaves, spines and the links between them, for NICs attached as `leaf` and `port` [n_nics] say."""
    leaves, spines, cables = int(leaf.max()) + 1, tiers.spines, tiers.links_per_spine
    leaf0 = builder.add_layer("leaf", leaves)
    up = down = -1
    if tiers.uplink is not None:
        spine0 = builder.add_layer("spine", parts * spines)
        a, spine = np.divmod(np.arange(leaves * spines), spines)
        below, above = leaf0 + a, spine0 + a * parts // leaves * spines + spine
        extra = tiers.switch.latency if tiers.switch else 0.0
        up = builder.add_links("leaf_up", tiers.uplink, below, above, extra_latency=extra, bundle=cables)
        down = builder.add_links("leaf_down", tiers.uplink, above, below, extra_latency=extra, bundle=cables)
    fabric = LeafSpine(
        kind, rail_aware, leaf, port, leaves, spines, cables, tiers.uplink, tiers.switch, up, down, parts
    )
    return fabric, leaf0 + leaf
