"""Torus: routers on a grid in which every line is closed to a ring; the NICs of a node are on its router.

Routing is dimension-ordered: first along dimension 0, then 1, and so on, each time in the shorter direction (Dally and
Towles, "Principles and Practices of Interconnection Networks", 2004, chapter 8). Where both directions are equally
long, which happens only in rings of even size, they are alternatives; t such dimensions give 2**t routes. A ring of two
is a single cable. Left out: meshes, twisted tori, routes that are not minimal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.fabrics.direct import Cables, Lattice, between_halves, fullest, port_sentences
from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.parts import Link, Switch
from dessim.cluster.routing.routes import NO_LINK, Pick, Segment, listed_routes

AXES = "xyzuvw"
"""Names of the dimensions, which also limit their number."""


@dataclass(frozen=True, slots=True)
class Grid(Lattice):
    """The torus as the topology file describes it: `size` routers per dimension, `cables` in parallel between two."""

    cable: Link
    cables: int
    switch: Switch | None

    @property
    def neighbours(self) -> int:
        """Neighbours of a router; a ring of two gives it one."""
        return sum(2 if n > 2 else 1 for n in self.size)


@dataclass(frozen=True, slots=True, eq=False)
class Torus:
    """NIC i is on router `home[i]`.

    Along dimension d, the link from router r to the next one is `forward[d] + r`, to the previous `backward[d] + r`.
    """

    grid: Grid
    home: IntArray
    forward: tuple[int, ...]
    backward: tuple[int, ...]
    cables: Cables
    kind: str = "torus"
    rail_aware: bool = False

    @property
    def switch(self) -> Switch | None:
        return self.grid.switch

    def segments(self, src: IntArray, dst: IntArray, pick: Pick) -> list[Segment]:
        """One dimension after the other. Bit i of an alternative is the direction along the i-th tied dimension."""
        size = np.array(self.grid.size)
        strides = np.array(self.grid.strides)
        at = self.home[src]
        goal = self.home[dst]
        target = goal[:, None] // strides % size
        ahead = (target - at[:, None] // strides) % size
        tied = (2 * ahead == size) & (size > 2)
        backward = 2 * ahead > size
        split = np.zeros_like(tied)
        n_tied = tied.sum(axis=1)
        for t in range(1, int(n_tied.max(initial=0)) + 1):
            rows = np.flatnonzero(n_tied == t)
            bit = tied[rows] << np.maximum(np.cumsum(tied[rows], axis=1) - 1, 0)
            # Static routing goes by destination: half of the places of every ring are reached in either direction.
            choice = pick(rows, 2**t, (target[rows] % 2 * bit).sum(axis=1))
            if choice is None:
                split[rows] = tied[rows]
            else:
                backward[rows] |= (choice[:, None] & bit) > 0
        segments = []
        for d in range(len(size)):
            moves = ahead[:, d] > 0
            one_direction = np.flatnonzero(moves & ~split[:, d])
            both_directions = np.flatnonzero(split[:, d])
            segments.append(
                self._along(
                    d, one_direction, at[one_direction], ahead[one_direction, d], backward[one_direction, d, None]
                )
            )
            segments.append(
                self._along(
                    d, both_directions, at[both_directions], ahead[both_directions, d], np.array([[False, True]])
                )
            )
            at = at + (target[:, d] - at // strides[d] % size[d]) * strides[d]
        return segments

    def _along(self, d: int, rows: IntArray, at: IntArray, ahead: IntArray, backward: IntArray) -> Segment:
        """From routers `at` [m] to those `ahead` [m] places on along dimension d, in the directions `backward` [m, k].

        A first axis of length one stands for all flows.
        """
        size = self.grid.size[d]
        stride = self.grid.strides[d]
        steps = np.where(backward, size - ahead[:, None], ahead[:, None])[:, :, None]
        hop = np.arange(int(steps.max(initial=1)))
        place = (at // stride % size)[:, None, None]
        visited = (place + np.where(backward, -1, 1)[:, :, None] * hop) % size
        first = np.where(backward, self.backward[d], self.forward[d])[:, :, None]
        links = np.where(hop < steps, first + at[:, None, None] + (visited - place) * stride, NO_LINK)
        return listed_routes(rows, links)

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """The maximum flow or a cut. Halves of an even first dimension of n are joined by `2 * routers / n` cables."""
        return between_halves(self.home, first_half, nic_capacity, self.cables)

    def oversubscription(self, nic_capacity: FloatArray) -> float:
        """Rate of the NICs of a router over rate of the links to its neighbours."""
        return fullest(self.home, nic_capacity) / (self.grid.neighbours * self.grid.cables * self.grid.cable.capacity)

    def port_problems(self) -> list[str]:
        """A router needs a port for each NIC and each cable."""
        ports = int(np.bincount(self.home).max()) + self.grid.neighbours * self.grid.cables
        return port_sentences(self.switch, {"router": ports})


def build(builder: LinkBuilder, home: IntArray, grid: Grid) -> tuple[Torus, IntArray]:
    """Add routers and links; return the fabric, and the vertex of each NIC, which is that of router `home` [n_nics]."""
    first = builder.add_layer("router", grid.routers)
    router = np.arange(grid.routers)
    extra = grid.switch.latency if grid.switch else 0.0
    forward = []
    backward = []
    cables = []
    for d, (size, stride) in enumerate(zip(grid.size, grid.strides, strict=True)):
        place = router // stride % size
        blocks = []
        for step, word in ((1, "plus"), (-1, "minus")) if size > 2 else ((1, "plus"),):
            head = router + ((place + step) % size - place) * stride
            block = builder.add_links(
                f"{AXES[d]}_{word}", grid.cable, first + router, first + head, extra_latency=extra, bundle=grid.cables
            )
            blocks.append(block)
            cables.append((router, head, grid.cable.capacity * grid.cables))
        forward.append(blocks[0])
        backward.append(blocks[-1])
    fabric = Torus(grid, home, tuple(forward), tuple(backward), Cables.join(*cables))
    return fabric, first + home
