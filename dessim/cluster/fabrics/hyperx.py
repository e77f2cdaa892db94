"""HyperX: routers on a grid in which all routers of a line are joined to each other; NICs of a node on its router.

Ahn, Binkert, Davis, McLaren and Schreiber, "HyperX: Topology, Routing, and Packaging of Efficient Large-Scale Networks"
(SC 2009), written HyperX(L, S, K, T): L dimensions, S routers along each, K cables between any two of a line, T hosts
per router. One dimension is a full mesh, two are a flattened butterfly. Routers that differ in q dimensions are q hops
apart, and the q! orders of these dimensions are the alternatives. Left out: routes that are not minimal (DAL).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from dessim.cluster.fabrics.direct import Cables, Lattice, alternatives, between_halves, fullest, port_sentences
from dessim.cluster.fabrics.torus import AXES
from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.parts import Link, Switch
from dessim.cluster.routing.routes import Pick, Segment, listed_routes


@dataclass(frozen=True, slots=True)
class Shape(Lattice):
    """The HyperX of a topology file: `size` routers and `cables` between any two of a line, for each dimension."""

    cables: tuple[int, ...]
    cable: Link
    switch: Switch | None

    @property
    def ports(self) -> int:
        """Ports of a router for cables to other routers."""
        return sum((n - 1) * k for n, k in zip(self.size, self.cables, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class HyperX:
    """NIC i is on router `home[i]`.

    The link from router r to place q of its line along dimension d is `line[d] + r * (size[d] - 1) + q`, minus one
    where q comes after r's own place.
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
        """The alternatives are the orders in which a route corrects the dimensions that differ."""
        size = np.array(self.shape.size)
        strides = np.array(self.shape.strides)
        a = self.home[src]
        b = self.home[dst]
        place_a = a[:, None] // strides % size
        place_b = b[:, None] // strides % size
        differs = place_a != place_b
        distance = differs.sum(axis=1)
        segments = []
        for q in range(1, len(size) + 1):
            rows = np.flatnonzero(distance == q)
            if not len(rows):
                continue
            orders = np.array(list(permutations(range(q))))
            choice = pick(rows, len(orders), dst[rows] % len(orders))
            order = orders[alternatives(choice, len(rows), len(orders))]
            differing = np.argsort(~differs[rows], axis=1, kind="stable")  # dimensions that differ come first
            links = self._hops(a[rows], place_a[rows], place_b[rows], differing, order)
            segments.append(listed_routes(rows, links))
        return segments

    def _hops(
        self, start: IntArray, place_a: IntArray, place_b: IntArray, differing: IntArray, order: IntArray
    ) -> IntArray:
        """Links [m, k, q] from routers `start` [m] that correct the q `differing` dimensions in `order` [m, k, q].

        `place_a` and `place_b` [m, L] are the coordinates of both ends.
        """
        size = np.array(self.shape.size)
        strides = np.array(self.shape.strides)
        line = np.array(self.line)
        links = np.empty_like(order)
        router = np.broadcast_to(start[:, None], order.shape[:2])
        for hop in range(order.shape[2]):
            d = np.take_along_axis(differing, order[:, :, hop], axis=1)
            old = np.take_along_axis(place_a, d, axis=1)
            new = np.take_along_axis(place_b, d, axis=1)
            links[:, :, hop] = line[d] + router * (size[d] - 1) + new - (new > old)
            router = router + (new - old) * strides[d]
        return links

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """The maximum flow or a cut. Halves of an even first dimension of n have `cables * n / 4 * routers` cables."""
        return between_halves(self.home, first_half, nic_capacity, self.cables)

    def oversubscription(self, nic_capacity: FloatArray) -> float:
        """Rate of the NICs of a router over rate of its cables to other routers."""
        return fullest(self.home, nic_capacity) / (self.shape.ports * self.shape.cable.capacity)

    def port_problems(self) -> list[str]:
        """A router needs a port for each NIC and each cable."""
        return port_sentences(self.switch, {"router": int(np.bincount(self.home).max()) + self.shape.ports})


def build(builder: LinkBuilder, home: IntArray, shape: Shape) -> tuple[HyperX, IntArray]:
    """Add routers and links; return the fabric, and the vertex of each NIC, which is that of router `home` [n_nics]."""
    first = builder.add_layer("router", shape.routers)
    extra = shape.switch.latency if shape.switch else 0.0
    line = []
    blocks = []
    for d, (size, cables, stride) in enumerate(zip(shape.size, shape.cables, shape.strides, strict=True)):
        router, other = np.divmod(np.arange(shape.routers * (size - 1)), size - 1)
        place = router // stride % size
        peer = router + (other + (other >= place) - place) * stride
        first_link = builder.add_links(
            f"{AXES[d]}_line", shape.cable, first + router, first + peer, extra_latency=extra, bundle=cables
        )
        line.append(first_link)
        blocks.append((router, peer, shape.cable.capacity * cables))
    fabric = HyperX(shape, home, tuple(line), Cables.join(*blocks))
    return fabric, first + home
