"""HyperX: routers on a grid, in each dimension all routers of a line joined to each other; a node's NICs on its router.

Ahn, Binkert, Davis, McLaren and Schreiber, "HyperX: Topology, Routing, and Packaging of Efficient Large-Scale Networks"
(SC 2009), written HyperX(L, S, K, T): L dimensions, S routers along each, K cables between each two of a line, T hosts
a router. One dimension is a full mesh, two are a flattened butterfly. Routers that differ in q dimensions are q hops
apart, and the q! orders of those dimensions are the alternatives. Left out: ways that are not minimal (DAL).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from dessim.cluster.fabrics.direct import Cables, Lattice, between_halves, fullest, numbers, port_sentences
from dessim.cluster.fabrics.torus import AXES
from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.parts import Link, Switch
from dessim.cluster.routing.routes import Pick, Segment, ways


@dataclass(frozen=True, slots=True)
class Shape(Lattice):
    """What a file says: `size` routers and `cables` between each two of a line, along each dimension."""

    cables: tuple[int, ...]
    cable: Link
    switch: Switch | None

    @property
    def ports(self) -> int:
        """Cables of a router to others."""
        return sum((n - 1) * k for n, k in zip(self.size, self.cables, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class HyperX:
    """NIC i sits on router `home[i]`.

    The link from router r to the one at place q of its line along dimension d is `line[d] + r * (size[d] - 1) + q`, one
    less where q is beyond r's own place.
    """

    shape: Shape
    home: IntArray
    line: tuple[int, ...]
    cables: Cables
    kind: str = "hyperx"
    rail_aware: bool = False

    @property
    def switch(self) -> Switch | None:
        return self.shape.switch

    def segments(self, src: IntArray, dst: IntArray, pick: Pick) -> list[Segment]:
        """Alternatives are the orders in which to go along the dimensions that differ."""
        size, strides, line = np.array(self.shape.size), np.array(self.shape.strides), np.array(self.line)
        a, b = self.home[src], self.home[dst]
        place_a, place_b = a[:, None] // strides % size, b[:, None] // strides % size
        differs = place_a != place_b
        distance = differs.sum(axis=1)
        segments = []
        for q in range(1, len(size) + 1):
            rows = np.flatnonzero(distance == q)
            if not len(rows):
                continue
            orders = np.array(list(permutations(range(q))))
            choice = pick(rows, len(orders), dst[rows] % len(orders))
            order = orders[numbers(choice, len(rows), len(orders))]
            dims = np.argsort(~differs[rows], axis=1, kind="stable")  # those that differ come first
            links, at = np.empty_like(order), np.broadcast_to(a[rows, None], order.shape[:2])
            for hop in range(q):
                d = np.take_along_axis(dims, order[:, :, hop], axis=1)
                here, there = (np.take_along_axis(place[rows], d, axis=1) for place in (place_a, place_b))
                links[:, :, hop] = line[d] + at * (size[d] - 1) + there - (there > here)
                at = at + (there - here) * strides[d]
            segments.append(ways(rows, links))
        return segments

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """For halves of an even first dimension of n: `cables * n / 4 * routers` cables, or what the NICs can send."""
        return between_halves(self.home, first_half, nic_capacity, self.cables)

    def oversubscription(self, nic_capacity: FloatArray) -> float:
        """Of a router: its NICs over its cables to others."""
        return fullest(self.home, nic_capacity) / (self.shape.ports * self.shape.cable.capacity)

    def port_problems(self) -> list[str]:
        """One port a NIC and a cable."""
        return port_sentences(self.switch, {"router": int(np.bincount(self.home).max()) + self.shape.ports})


def build(builder: LinkBuilder, home: IntArray, shape: Shape) -> tuple[HyperX, IntArray]:
    """The fabric, and the vertex each NIC is attached to."""
    first = builder.add_layer("router", shape.routers)
    extra = shape.switch.latency if shape.switch else 0.0
    line, parts = [], []
    for d, (size, cables, stride) in enumerate(zip(shape.size, shape.cables, shape.strides, strict=True)):
        router, other = np.divmod(np.arange(shape.routers * (size - 1)), size - 1)
        place = router // stride % size
        peer = router + (other + (other >= place) - place) * stride
        link = builder.add_links(
            f"{AXES[d]}_line", shape.cable, first + router, first + peer, extra_latency=extra, bundle=cables
        )
        line.append(link)
        parts.append((router, peer, shape.cable.capacity * cables))
    fabric = HyperX(shape, home, tuple(line), Cables.join(*parts))
    return fabric, first + home
