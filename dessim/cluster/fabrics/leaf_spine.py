"""Two tiers: leaves with the NICs, and spines, with every leaf joined to every spine.

All NICs of a node are on one leaf; `rail.py` attaches them differently and reuses this fabric. Parallel cables between
a leaf and a spine count as one link of their summed capacity, which is optimistic under static routing where one flow
could fill a cable. Oversubscription follows from the numbers of NICs and spines and from the rates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.fabrics.direct import fullest, halves, port_on, port_sentences
from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.parts import Link, Switch
from dessim.cluster.routing.routes import Pick, Segment, consecutive, single_route


@dataclass(frozen=True, slots=True, eq=False)
class LeafSpine:
    """Leaves and spines. NIC i is on port `port[i]` of leaf `leaf[i]` [n_nics].

    The link from leaf a to spine s is `up + a * spines + s`, and the opposite one is `down + a * spines + s`. Leaves
    fall into `planes` equal runs. Each plane has `spines` dedicated spines and no connection to the other planes.
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
    planes: int = 1

    @property
    def uplinks(self) -> float:
        """Payload bytes/s from a leaf to all its spines."""
        return self.uplink.capacity * self.links_per_spine * self.spines if self.uplink else 0.0

    def segments(self, src: IntArray, dst: IntArray, pick: Pick) -> list[Segment]:
        """Up to a spine and down again between NICs on different leaves. Raises ValueError between different planes."""
        a = self.leaf[src]
        b = self.leaf[dst]
        rows = np.flatnonzero(a != b)
        if self.planes > 1 and (a * self.planes // self.leaves != b * self.planes // self.leaves).any():
            raise ValueError(f"a {self.kind} fabric has no route between leaves of different planes")
        if not len(rows):
            return []
        up = self.up + a[rows] * self.spines
        down = self.down + b[rows] * self.spines
        spine = pick(rows, self.spines, self.port[dst[rows]] % self.spines)
        if spine is not None:
            return [single_route(rows, up + spine, down + spine)]
        # Split flows load all uplinks of a leaf equally, and all its downlinks.
        return [Segment(rows, np.stack([up, down], axis=1), consecutive(self.spines, hops=2), twins=True)]

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """Closed form of the maximum flow from one half to the other.

        On a leaf that both halves share, traffic first goes from NIC to NIC, which uses no uplink and never reduces the
        total. The rest goes up as far as the uplinks carry it, and down to other leaves.
        """
        supply, demand = halves(self.leaf, first_half, nic_capacity, self.leaves)
        local = np.minimum(supply, demand)
        upward = np.minimum(supply - local, self.uplinks).reshape(self.planes, -1).sum(axis=1)
        downward = np.minimum(demand - local, self.uplinks).reshape(self.planes, -1).sum(axis=1)
        return float(local.sum() + np.minimum(upward, downward).sum())

    def oversubscription(self, nic_capacity: FloatArray) -> float:
        """Rate of the NICs over rate of the uplinks, of the fullest leaf."""
        if self.leaves == self.planes:
            return 1.0
        return fullest(self.leaf, nic_capacity) / self.uplinks

    def port_problems(self) -> list[str]:
        """A leaf needs a port for each NIC and cable, a spine for each cable."""
        leaf_ports = int(np.bincount(self.leaf).max()) + self.spines * self.links_per_spine
        spine_ports = self.leaves // self.planes * self.links_per_spine
        return port_sentences(self.switch, {"leaf": leaf_ports, "spine": spine_ports})


@dataclass(frozen=True, slots=True)
class Tiers:
    """The two tiers as the topology file describes them; `uplink` is None where there are no spines."""

    spines: int
    links_per_spine: int
    uplink: Link | None
    switch: Switch | None


def build(builder: LinkBuilder, leaf: IntArray, tiers: Tiers) -> tuple[LeafSpine, IntArray]:
    """Add switches and links; return the fabric, and the vertex of each NIC, which is that of leaf `leaf` [n_nics]."""
    return join(builder, tiers, "leaf_spine", leaf, port_on(leaf))


def join(
    builder: LinkBuilder,
    tiers: Tiers,
    kind: str,
    leaf: IntArray,
    port: IntArray,
    *,
    rail_aware: bool = False,
    planes: int = 1,
) -> tuple[LeafSpine, IntArray]:
    """Add leaves, spines and the links between them, for NICs attached to `port` of `leaf` [n_nics].

    Returns the fabric and the vertex to which each NIC is attached. There are `planes` separate sets of spines.
    """
    leaves = int(leaf.max()) + 1
    first_leaf = builder.add_layer("leaf", leaves)
    up = -1
    down = -1
    if tiers.uplink is not None:
        first_spine = builder.add_layer("spine", planes * tiers.spines)
        leaf_of_link, spine_of_link = np.divmod(np.arange(leaves * tiers.spines), tiers.spines)
        below = first_leaf + leaf_of_link
        above = first_spine + leaf_of_link * planes // leaves * tiers.spines + spine_of_link
        extra = tiers.switch.latency if tiers.switch else 0.0
        bundle = tiers.links_per_spine
        up = builder.add_links("leaf_up", tiers.uplink, below, above, extra_latency=extra, bundle=bundle)
        down = builder.add_links("leaf_down", tiers.uplink, above, below, extra_latency=extra, bundle=bundle)
    fabric = LeafSpine(
        kind=kind,
        rail_aware=rail_aware,
        leaf=leaf,
        port=port,
        leaves=leaves,
        spines=tiers.spines,
        links_per_spine=tiers.links_per_spine,
        uplink=tiers.uplink,
        switch=tiers.switch,
        up=up,
        down=down,
        planes=planes,
    )
    return fabric, first_leaf + leaf
