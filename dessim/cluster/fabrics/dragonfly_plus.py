"""Dragonfly+: groups of leaves and spines, with hosts on the leaves and global links on the spines.

Shpiner, Haramaty, Eliad, Zdornov, Gafni and Zahavi, "Dragonfly+: Low Cost Topology for Scaling Datacenters" (HiPINEB
2017), also known as Megafly. In a group every leaf is joined to every spine. Within a group a route goes through any
spine. Between groups a minimal route is leaf, spine, spine, leaf over one of the links between the two groups. A
Valiant route goes through a third group: directly through the spine at which it arrives if that spine also has the next
global link, otherwise down to a leaf and up again. Groups are wired as those in `dragonfly.py`. Left out: choosing
between minimal and Valiant routes by load, and groups of different design.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.fabrics.direct import Cables, alternatives, between_halves, fullest, port_sentences
from dessim.cluster.fabrics.dragonfly import GlobalLinks
from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.parts import Link, Switch
from dessim.cluster.routing.routes import NO_LINK, Pick, Segment, listed_routes


@dataclass(frozen=True, slots=True)
class Shape:
    """The dragonfly+ as the topology file describes it; the switches of `links` are the spines."""

    links: GlobalLinks
    leaves: int
    local: Link
    cable: Link
    switch: Switch | None
    valiant: bool


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DragonflyPlus:
    """NIC i is on leaf `home[i]`; leaf l is in group `l // leaves`.

    Link `up + l * spines + s` goes from leaf l to spine s of its group, and `down + l * spines + s` goes back. The link
    from port P of group i is `first_global + i * ports + P`.
    """

    shape: Shape
    home: IntArray
    up: int
    down: int
    first_global: int
    cables: Cables
    kind: str = "dragonfly_plus"
    rail_aware: bool = False

    @property
    def switch(self) -> Switch | None:
        return self.shape.switch

    def segments(self, src: IntArray, dst: IntArray, pick: Pick) -> list[Segment]:
        """Alternatives: the spines within a group; the parallel links or the intermediate groups between groups."""
        shape = self.shape
        links = shape.links
        spines = links.switches
        a = self.home[src]
        b = self.home[dst]
        distance = (b // shape.leaves - a // shape.leaves) % links.groups
        near = np.flatnonzero((distance == 0) & (a != b))
        far = np.flatnonzero(distance)
        spine = alternatives(pick(near, spines, dst[near] % spines), len(near), spines)
        up_and_down = [self._up(a[near, None], spine), self._down(b[near, None], spine)]
        segments = [listed_routes(near, np.stack(up_and_down, axis=2))]
        if len(far):
            valiant = shape.valiant and links.groups > 2
            k = links.n_alternatives(valiant)
            alternative = alternatives(pick(far, k, dst[far] % k), len(far), k)
            route = self._valiant if valiant else self._minimal
            hops = route(a[far, None], b[far, None], distance[far, None], alternative)
            segments.append(listed_routes(far, np.stack(hops, axis=2)))
        return segments

    def _up(self, leaf: IntArray, spine: IntArray) -> IntArray:
        """The link from each leaf to `spine` of its group."""
        return self.up + leaf * self.shape.links.switches + spine

    def _down(self, leaf: IntArray, spine: IntArray) -> IntArray:
        """The link to each leaf from `spine` of its group."""
        return self.down + leaf * self.shape.links.switches + spine

    def _minimal(self, a: IntArray, b: IntArray, distance: IntArray, copy: IntArray) -> list[IntArray]:
        """The links [m, k] of each hop from leaf `a` to leaf `b` [m, 1], over the parallel link `copy` [m, k]."""
        exit_spine, across, entry_spine = self._to_group(a // self.shape.leaves, distance, copy)
        return [self._up(a, exit_spine), across, self._down(b, entry_spine)]

    def _valiant(self, a: IntArray, b: IntArray, distance: IntArray, alternative: IntArray) -> list[IntArray]:
        """The links [m, k] of each hop from leaf `a` to leaf `b` [m, 1], through intermediate groups."""
        shape = self.shape
        group = a // shape.leaves
        first_distance, copy = shape.links.intermediate(distance, alternative)
        exit_spine, to_intermediate, arrival_spine = self._to_group(group, first_distance, copy)
        intermediate = (group + first_distance) % shape.links.groups
        departure_spine, to_target, entry_spine = self._to_group(intermediate, distance - first_distance, copy)
        # Routes that need a leaf of the intermediate group are spread evenly over its leaves.
        leaf = intermediate * shape.leaves + (a + alternative) % shape.leaves
        direct = arrival_spine == departure_spine
        return [
            self._up(a, exit_spine),
            to_intermediate,
            np.where(direct, NO_LINK, self._down(leaf, arrival_spine)),
            np.where(direct, NO_LINK, self._up(leaf, departure_spine)),
            to_target,
            self._down(b, entry_spine),
        ]

    def _to_group(self, group: IntArray, distance: IntArray, copy: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """The global link to the group `distance` further on, between the places of the spines at its two ends."""
        links = self.shape.links
        distance = distance % links.groups
        port = links.port(distance, copy)
        arrival_port = links.port(links.groups - distance, copy)
        link = self.first_global + group * links.ports + port
        return port // links.per_switch, link, arrival_port // links.per_switch

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """The maximum flow or a cut. Two halves of the groups have `copies * (groups / 2)**2` links between them."""
        groups = np.arange(self.shape.links.groups)
        group = np.concatenate([np.repeat(groups, self.shape.leaves), np.repeat(groups, self.shape.links.switches)])
        return between_halves(self.home, first_half, nic_capacity, self.cables, group)

    def oversubscription(self, nic_capacity: FloatArray) -> float:
        """Rate of the NICs over rate of the links, of a leaf to its spines or of a group, whichever is worse."""
        shape = self.shape
        leaf_nics = fullest(self.home, nic_capacity)
        group_nics = fullest(self.home // shape.leaves, nic_capacity)
        leaf_ratio = leaf_nics / (shape.links.switches * shape.local.capacity)
        return max(leaf_ratio, group_nics / (shape.links.ports * shape.cable.capacity))

    def port_problems(self) -> list[str]:
        """A leaf needs a port for each NIC and spine, a spine for each leaf and global link."""
        shape = self.shape
        leaf_ports = int(np.bincount(self.home).max()) + shape.links.switches
        return port_sentences(self.switch, {"leaf": leaf_ports, "spine": shape.leaves + shape.links.per_switch})


def build(builder: LinkBuilder, home: IntArray, shape: Shape) -> tuple[DragonflyPlus, IntArray]:
    """Add switches and links; return the fabric, and the vertex of each NIC, which is that of leaf `home` [n_nics]."""
    groups = shape.links.groups
    spines = shape.links.switches
    leaves = shape.leaves
    first = builder.add_layer("leaf", groups * leaves)
    builder.add_layer("spine", groups * spines)
    extra = shape.switch.latency if shape.switch else 0.0
    # Vertices are numbered leaves first, then spines.
    leaf, place = np.divmod(np.arange(groups * leaves * spines), spines)
    spine = groups * leaves + leaf // leaves * spines + place
    tail, head = (groups * leaves + end for end in shape.links.ends())
    up = builder.add_links("leaf_up", shape.local, first + leaf, first + spine, extra_latency=extra)
    down = builder.add_links("leaf_down", shape.local, first + spine, first + leaf, extra_latency=extra)
    first_global = builder.add_links("global", shape.cable, first + tail, first + head, extra_latency=extra)
    local = shape.local.capacity
    cables = Cables.join((leaf, spine, local), (spine, leaf, local), (tail, head, shape.cable.capacity))
    fabric = DragonflyPlus(shape=shape, home=home, up=up, down=down, first_global=first_global, cables=cables)
    return fabric, first + home
