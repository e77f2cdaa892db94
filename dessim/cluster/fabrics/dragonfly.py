"""Dragonfly: groups of routers, all routers of a group joined to each other, all groups joined to each other.

Kim, Dally, Scott and Abts, "Technology-Driven, Highly-Scalable Dragonfly Topology" (ISCA 2008): g groups of a routers,
each with p hosts and h global links, g <= a * h + 1. A minimal way is at most local, global, local. A Valiant way goes
by another group, so that traffic between two groups is spread over all of them; every such group is an alternative
(Valiant, "A Scheme for Fast Parallel Communication", SIAM J. Comput. 1982). Within a group all go straight.

Between two groups there are `a * h // (g - 1)` links, and what ports are left over stay dark. Groups are wired alike
(the "palm tree" of Camarero, Vallejo and Beivide, ACM TACO 2014): numbering group i's ports c * (g - 1) + j, port j
leads to group i + j + 1 (mod g) and arrives there at its port g - 2 - j. Left out: choosing between minimal and Valiant
by load (UGAL), groups that are not fully meshed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.fabrics.direct import Cables, between_halves, fullest, numbers, port_sentences
from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.parts import Link, Switch
from dessim.cluster.routing.routes import NO_LINK, Pick, Segment, ways


@dataclass(frozen=True, slots=True)
class Globals:
    """The links between `groups` groups, each of which has `per_switch` of them on each of its `switches`."""

    groups: int
    switches: int
    per_switch: int

    @property
    def copies(self) -> int:
        """Links between two groups."""
        return self.switches * self.per_switch // (self.groups - 1)

    @property
    def ports(self) -> int:
        """Ports of a group that are in use."""
        return self.copies * (self.groups - 1)

    def port(self, distance: IntArray, copy: IntArray) -> IntArray:
        """The port of any group that leads `distance` (1 to groups - 1) groups on."""
        at: IntArray = copy * (self.groups - 1) + distance - 1
        return at

    def ends(self) -> tuple[IntArray, IntArray]:
        """Of link `group * ports + port` the switch it starts from and the one it ends at, `group * switches + own`."""
        group, port = np.divmod(np.arange(self.groups * self.ports), self.ports)
        copy, distance = port // (self.groups - 1), port % (self.groups - 1) + 1
        there, arrives = (group + distance) % self.groups, self.port(self.groups - distance, copy)
        return (
            group * self.switches + port // self.per_switch,
            there * self.switches + arrives // self.per_switch,
        )

    def by_another(self, distance: IntArray, number: IntArray) -> tuple[IntArray, IntArray]:
        """Of Valiant alternative `number` how many groups on its group is, and which copies of links it uses.

        There are `groups - 2` groups to go by, for each copy.
        """
        copy, other = np.divmod(number, self.groups - 2)
        return other + 1 + (other + 1 >= distance), copy


@dataclass(frozen=True, slots=True)
class Shape:
    """What a file says."""

    links: Globals
    local: Link
    cable: Link
    switch: Switch | None
    valiant: bool

    @property
    def routers(self) -> int:
        return self.links.groups * self.links.switches


@dataclass(frozen=True, slots=True, eq=False)
class Dragonfly:
    """NIC i sits on router `home[i]`; router r is in group `r // a`.

    The link from router r to the one with place q in its group is `local + r * (a - 1) + q`, one less where q is beyond
    r's own place; the link from port P of group i `world + i * ports + P`.
    """

    shape: Shape
    home: IntArray
    local: int
    world: int
    cables: Cables
    kind: str = "dragonfly"
    rail_aware: bool = False

    @property
    def switch(self) -> Switch | None:
        return self.shape.switch

    def segments(self, src: IntArray, dst: IntArray, pick: Pick) -> list[Segment]:
        """Alternatives between groups: the parallel links to the other group, or the groups to go by."""
        links = self.shape.links
        a, b = self.home[src], self.home[dst]
        distance = (b // links.switches - a // links.switches) % links.groups
        near, far = np.flatnonzero((distance == 0) & (a != b)), np.flatnonzero(distance)
        segments = [ways(near, self._within(a[near], b[near] % links.switches)[:, None, None])]
        if len(far):
            around = self.shape.valiant and links.groups > 2
            k = links.copies * (links.groups - 2 if around else 1)
            number = numbers(pick(far, k, dst[far] % k), len(far), k)
            start, end, on = a[far, None], b[far, None], distance[far, None]
            goal = end % links.switches
            if around:
                first, copy = links.by_another(on, number)
                out, middle = self._abroad(start, first, copy)
                back, there = self._abroad(middle, on - first, copy)
                hops = [*out, *back, self._within(there, goal)]
            else:
                out, there = self._abroad(start, on, number)
                hops = [*out, self._within(there, goal)]
            segments.append(ways(far, np.stack(hops, axis=2)))
        return segments

    def _within(self, router: IntArray, place: IntArray) -> IntArray:
        """The link from a router to the one with `place` in its group."""
        of = self.shape.links.switches
        own = router % of
        link: IntArray = np.where(own == place, NO_LINK, self.local + router * (of - 1) + place - (place > own))
        return link

    def _abroad(self, router: IntArray, distance: IntArray, copy: IntArray) -> tuple[list[IntArray], IntArray]:
        """To the router of the group's port that leads `distance` groups on, and across; and where that arrives."""
        links = self.shape.links
        group, distance = router // links.switches, distance % links.groups
        port = links.port(distance, copy)
        arrives = links.port(links.groups - distance, copy)
        there = (group + distance) % links.groups * links.switches + arrives // links.per_switch
        return [self._within(router, port // links.per_switch), self.world + group * links.ports + port], there

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """For an even number of groups: `copies * (groups / 2)**2` global links, or what the NICs can send."""
        group = np.arange(self.shape.routers) // self.shape.links.switches
        return between_halves(self.home, first_half, nic_capacity, self.cables, group)

    def oversubscription(self, nic_capacity: FloatArray) -> float:
        """Of a router, or of a group to all others, whichever is worse."""
        shape, links = self.shape, self.shape.links
        a_router, a_group = (fullest(at, nic_capacity) for at in (self.home, self.home // links.switches))
        out = (links.switches - 1) * shape.local.capacity + links.ports / links.switches * shape.cable.capacity
        return max(a_router / out, a_group / (links.ports * shape.cable.capacity))

    def port_problems(self) -> list[str]:
        """One port a NIC, a local and a global link."""
        links = self.shape.links
        ports = int(np.bincount(self.home).max()) + links.switches - 1 + links.per_switch
        return port_sentences(self.switch, {"router": ports})


def build(builder: LinkBuilder, home: IntArray, shape: Shape) -> tuple[Dragonfly, IntArray]:
    """The fabric, and the vertex each NIC is attached to."""
    of = shape.links.switches
    first = builder.add_layer("router", shape.routers)
    extra = shape.switch.latency if shape.switch else 0.0
    router, other = np.divmod(np.arange(shape.routers * (of - 1)), max(of - 1, 1))
    peer = router // of * of + other + (other >= router % of)
    tail, head = shape.links.ends()
    local = builder.add_links("local", shape.local, first + router, first + peer, extra_latency=extra)
    world = builder.add_links("global", shape.cable, first + tail, first + head, extra_latency=extra)
    cables = Cables.join((router, peer, shape.local.capacity), (tail, head, shape.cable.capacity))
    return Dragonfly(shape, home, local, world, cables), first + home
