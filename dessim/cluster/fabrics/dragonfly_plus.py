"""Dragonfly+: groups of leaves and spines; hosts on the leaves, global links on the spines.

Shpiner, Haramaty, Eliad, Zdornov, Gafni and Zahavi, "Dragonfly+: Low Cost Topology for Scaling Datacenters" (HiPINEB
2017), also known as Megafly. In a group every leaf is joined to every spine. A minimal way is leaf, spine, spine, leaf
by one of the links between the two groups; in a group it is by any spine. A Valiant way goes by another group: straight
through the spine it arrives at where that has the link on, else down to a leaf and up again. Groups are wired as those
of `dragonfly.py`. Left out: choosing between minimal and Valiant by load, groups of different make.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.fabrics.direct import Cables, between_halves, fullest, numbers, port_sentences
from dessim.cluster.fabrics.dragonfly import Globals
from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.parts import Link, Switch
from dessim.cluster.routing.routes import NO_LINK, Pick, Segment, ways


@dataclass(frozen=True, slots=True)
class Shape:
    """What a file says; the switches of `links` are the spines."""

    links: Globals
    leaves: int
    local: Link
    cable: Link
    switch: Switch | None
    valiant: bool


@dataclass(frozen=True, slots=True, eq=False)
class DragonflyPlus:
    """NIC i is on leaf `home[i]`, leaf l in group `l // leaves`.

    From leaf l to spine s of its group goes link `up + l * spines + s`, back `down + l * spines + s`; from port P of
    group i `world + i * ports + P`.
    """

    shape: Shape
    home: IntArray
    up: int
    down: int
    world: int
    cables: Cables
    kind: str = "dragonfly_plus"
    rail_aware: bool = False

    @property
    def switch(self) -> Switch | None:
        return self.shape.switch

    def segments(self, src: IntArray, dst: IntArray, pick: Pick) -> list[Segment]:
        """Alternatives: in a group the spines; between groups the parallel links, or the groups to go by."""
        shape, links, spines = self.shape, self.shape.links, self.shape.links.switches
        a, b = self.home[src], self.home[dst]
        distance = (b // shape.leaves - a // shape.leaves) % links.groups
        near, far = np.flatnonzero((distance == 0) & (a != b)), np.flatnonzero(distance)
        spine = numbers(pick(near, spines, dst[near] % spines), len(near), spines)
        turn = [self.up + a[near, None] * spines + spine, self.down + b[near, None] * spines + spine]
        segments = [ways(near, np.stack(turn, axis=2))]
        if len(far):
            around = shape.valiant and links.groups > 2
            k = links.copies * (links.groups - 2 if around else 1)
            number = numbers(pick(far, k, dst[far] % k), len(far), k)
            group, on = a[far, None] // shape.leaves, distance[far, None]
            if around:
                first, copy = links.by_another(on, number)
                leaves, out, arrives = self._abroad(group, first, copy)
                middle = (group + first) % links.groups
                departs, back, there = self._abroad(middle, on - first, copy)
                # Where it must go down in between, the leaves of the group take turns.
                leaf = (middle * shape.leaves + (a[far, None] + number) % shape.leaves) * spines
                straight = arrives == departs
                down = np.where(straight, NO_LINK, self.down + leaf + arrives)
                up = np.where(straight, NO_LINK, self.up + leaf + departs)
                hops = [out, down, up, back]
            else:
                leaves, out, there = self._abroad(group, on, number)
                hops = [out]
            first_hop, last_hop = self.up + a[far, None] * spines + leaves, self.down + b[far, None] * spines + there
            segments.append(ways(far, np.stack([first_hop, *hops, last_hop], axis=2)))
        return segments

    def _abroad(self, group: IntArray, distance: IntArray, copy: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """The link `distance` groups on: the place of the spine it leaves, itself, the place of the spine it enters."""
        links = self.shape.links
        distance = distance % links.groups
        port, arrives = links.port(distance, copy), links.port(links.groups - distance, copy)
        return port // links.per_switch, self.world + group * links.ports + port, arrives // links.per_switch

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """For an even number of groups: `copies * (groups / 2)**2` global links, or what the NICs can send."""
        groups = np.arange(self.shape.links.groups)
        group = np.concatenate([np.repeat(groups, self.shape.leaves), np.repeat(groups, self.shape.links.switches)])
        return between_halves(self.home, first_half, nic_capacity, self.cables, group)

    def oversubscription(self, nic_capacity: FloatArray) -> float:
        """Of a leaf to its spines, or of a group to all others, whichever is worse."""
        shape, links = self.shape, self.shape.links
        a_leaf, a_group = (fullest(at, nic_capacity) for at in (self.home, self.home // shape.leaves))
        ratio = a_leaf / (links.switches * shape.local.capacity)
        return max(ratio, a_group / (links.ports * shape.cable.capacity))

    def port_problems(self) -> list[str]:
        """Leaves need a port a NIC and a spine, spines a port a leaf and a global link."""
        shape, links = self.shape, self.shape.links
        leaf = int(np.bincount(self.home).max()) + links.switches
        return port_sentences(self.switch, {"leaf": leaf, "spine": shape.leaves + links.per_switch})


def build(builder: LinkBuilder, home: IntArray, shape: Shape) -> tuple[DragonflyPlus, IntArray]:
    """The fabric, and the vertex each NIC is attached to."""
    groups, spines, leaves = shape.links.groups, shape.links.switches, shape.leaves
    first = builder.add_layer("leaf", groups * leaves)
    builder.add_layer("spine", groups * spines)
    extra = shape.switch.latency if shape.switch else 0.0
    leaf, place = np.divmod(np.arange(groups * leaves * spines), spines)
    spine = groups * leaves + leaf // leaves * spines + place
    tail, head = (groups * leaves + end for end in shape.links.ends())
    up = builder.add_links("leaf_up", shape.local, first + leaf, first + spine, extra_latency=extra)
    down = builder.add_links("leaf_down", shape.local, first + spine, first + leaf, extra_latency=extra)
    world = builder.add_links("global", shape.cable, first + tail, first + head, extra_latency=extra)
    local = shape.local.capacity
    cables = Cables.join((leaf, spine, local), (spine, leaf, local), (tail, head, shape.cable.capacity))
    return DragonflyPlus(shape, home, up, down, world, cables), first + home
