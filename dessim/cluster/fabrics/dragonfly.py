"""Dragonfly: groups of routers; all routers of a group are joined to each other, and so are all groups.

Kim, Dally, Scott and Abts, "Technology-Driven, Highly-Scalable Dragonfly Topology" (ISCA 2008): g groups of a routers,
each with p hosts and h global links, g <= a * h + 1. A minimal route has at most a local, a global and a local hop. A
Valiant route goes through a third group, so that the traffic between two groups is spread over all of them; every
intermediate group is an alternative (Valiant, "A Scheme for Fast Parallel Communication", SIAM J. Comput. 1982).
Traffic within a group always takes the direct link.

There are `a * h // (g - 1)` links between two groups, and the remaining ports are unused. All groups are wired in the
same pattern (the "palm tree" of Camarero, Vallejo and Beivide, ACM TACO 2014). With the ports of group i numbered
c * (g - 1) + j, port j leads to group i + j + 1 (mod g) and arrives there at port g - 2 - j. Left out: choosing between
minimal and Valiant routes by load (UGAL), and groups that are not fully meshed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.fabrics.direct import Cables, alternatives, between_halves, fullest, port_sentences
from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.parts import Link, Switch
from dessim.cluster.routing.routes import NO_LINK, Pick, Segment, listed_routes


@dataclass(frozen=True, slots=True)
class GlobalLinks:
    """The links between `groups` groups. Each group has `switches` switches with `per_switch` global ports each."""

    groups: int
    switches: int
    per_switch: int

    @property
    def copies(self) -> int:
        """Parallel links between two groups."""
        return self.switches * self.per_switch // (self.groups - 1)

    @property
    def ports(self) -> int:
        """Ports of a group that are in use."""
        return self.copies * (self.groups - 1)

    def port(self, distance: IntArray, copy: IntArray) -> IntArray:
        """The port of any group that leads to the group `distance` (1 to groups - 1) further on."""
        port: IntArray = copy * (self.groups - 1) + distance - 1
        return port

    def ends(self) -> tuple[IntArray, IntArray]:
        """The switches at which each link `group * ports + port` starts and ends, [groups * ports] each.

        Switch s of a group is number `group * switches + s`.
        """
        group, port = np.divmod(np.arange(self.groups * self.ports), self.ports)
        copy = port // (self.groups - 1)
        distance = port % (self.groups - 1) + 1
        other_group = (group + distance) % self.groups
        other_port = self.port(self.groups - distance, copy)
        return (
            group * self.switches + port // self.per_switch,
            other_group * self.switches + other_port // self.per_switch,
        )

    def n_alternatives(self, valiant: bool) -> int:
        """Routes between two groups: one for each parallel link and, with `valiant`, each intermediate group."""
        return self.copies * (self.groups - 2 if valiant else 1)

    def intermediate(self, distance: IntArray, alternative: IntArray) -> tuple[IntArray, IntArray]:
        """The distance to the intermediate group of a Valiant alternative, and which of the parallel links it uses.

        There are `groups - 2` intermediate groups for each parallel link.
        """
        copy, number = np.divmod(alternative, self.groups - 2)
        return number + 1 + (number + 1 >= distance), copy


@dataclass(frozen=True, slots=True)
class Shape:
    """The dragonfly as the topology file describes it; `cable` is the part of the global links."""

    links: GlobalLinks
    local: Link
    cable: Link
    switch: Switch | None
    valiant: bool

    @property
    def routers(self) -> int:
        """Number of routers."""
        return self.links.groups * self.links.switches


@dataclass(frozen=True, slots=True, eq=False)
class Dragonfly:
    """NIC i is on router `home[i]`; router r is in group `r // a`, where a is the number of routers per group.

    The link from router r to place q of its group is `first_local + r * (a - 1) + q`, minus one where q comes after r's
    own place. The link from port P of group i is `first_global + i * ports + P`.
    """

    shape: Shape
    home: IntArray
    first_local: int
    first_global: int
    cables: Cables
    kind: str = "dragonfly"
    rail_aware: bool = False

    @property
    def switch(self) -> Switch | None:
        return self.shape.switch

    def segments(self, src: IntArray, dst: IntArray, pick: Pick) -> list[Segment]:
        """Alternatives exist between groups: the parallel links to the other group, or the intermediate groups."""
        links = self.shape.links
        a = self.home[src]
        b = self.home[dst]
        distance = (b // links.switches - a // links.switches) % links.groups
        near = np.flatnonzero((distance == 0) & (a != b))
        far = np.flatnonzero(distance)
        segments = [listed_routes(near, self._local_link(a[near], b[near] % links.switches)[:, None, None])]
        if len(far):
            valiant = self.shape.valiant and links.groups > 2
            k = links.n_alternatives(valiant)
            alternative = alternatives(pick(far, k, dst[far] % k), len(far), k)
            hops = self._between_groups(a[far, None], b[far, None], distance[far, None], alternative, valiant)
            segments.append(listed_routes(far, np.stack(hops, axis=2)))
        return segments

    def _between_groups(
        self, start: IntArray, end: IntArray, distance: IntArray, alternative: IntArray, valiant: bool
    ) -> list[IntArray]:
        """The links [m, k] of each hop from router `start` to `end` [m, 1], in groups `distance` [m, 1] apart."""
        links = self.shape.links
        goal = end % links.switches
        if not valiant:
            across, arrival = self._to_group(start, distance, alternative)
            return [*across, self._local_link(arrival, goal)]
        first_distance, copy = links.intermediate(distance, alternative)
        to_intermediate, middle = self._to_group(start, first_distance, copy)
        to_target, arrival = self._to_group(middle, distance - first_distance, copy)
        return [*to_intermediate, *to_target, self._local_link(arrival, goal)]

    def _local_link(self, router: IntArray, place: IntArray) -> IntArray:
        """The link from each router to the one at `place` in its group."""
        a = self.shape.links.switches
        own = router % a
        link: IntArray = np.where(own == place, NO_LINK, self.first_local + router * (a - 1) + place - (place > own))
        return link

    def _to_group(self, router: IntArray, distance: IntArray, copy: IntArray) -> tuple[list[IntArray], IntArray]:
        """The links of the local and the global hop to the group `distance` further on, and the router they reach."""
        links = self.shape.links
        group = router // links.switches
        distance = distance % links.groups
        port = links.port(distance, copy)
        arrival_port = links.port(links.groups - distance, copy)
        arrival = (group + distance) % links.groups * links.switches + arrival_port // links.per_switch
        local = self._local_link(router, port // links.per_switch)
        return [local, self.first_global + group * links.ports + port], arrival

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """The maximum flow or a cut. Two halves of the groups have `copies * (groups / 2)**2` links between them."""
        group = np.arange(self.shape.routers) // self.shape.links.switches
        return between_halves(self.home, first_half, nic_capacity, self.cables, group)

    def oversubscription(self, nic_capacity: FloatArray) -> float:
        """Rate of the NICs over rate of the links to others, of a router or a group, whichever is worse."""
        shape = self.shape
        links = shape.links
        router_nics = fullest(self.home, nic_capacity)
        group_nics = fullest(self.home // links.switches, nic_capacity)
        router_links = (links.switches - 1) * shape.local.capacity + links.ports / links.switches * shape.cable.capacity
        return max(router_nics / router_links, group_nics / (links.ports * shape.cable.capacity))

    def port_problems(self) -> list[str]:
        """A router needs a port for each NIC, each local link and each global link."""
        links = self.shape.links
        ports = int(np.bincount(self.home).max()) + links.switches - 1 + links.per_switch
        return port_sentences(self.switch, {"router": ports})


def build(builder: LinkBuilder, home: IntArray, shape: Shape) -> tuple[Dragonfly, IntArray]:
    """Add routers and links; return the fabric, and the vertex of each NIC, which is that of router `home` [n_nics]."""
    a = shape.links.switches
    first = builder.add_layer("router", shape.routers)
    extra = shape.switch.latency if shape.switch else 0.0
    router, other = np.divmod(np.arange(shape.routers * (a - 1)), max(a - 1, 1))
    peer = router // a * a + other + (other >= router % a)
    tail, head = shape.links.ends()
    first_local = builder.add_links("local", shape.local, first + router, first + peer, extra_latency=extra)
    first_global = builder.add_links("global", shape.cable, first + tail, first + head, extra_latency=extra)
    cables = Cables.join((router, peer, shape.local.capacity), (tail, head, shape.cable.capacity))
    return Dragonfly(shape, home, first_local, first_global, cables), first + home
