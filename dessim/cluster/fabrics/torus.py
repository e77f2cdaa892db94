"""Torus: routers on a grid whose every line is closed to a ring; a node's NICs sit on its router.

Routing is dimension-ordered: first along dimension 0, then 1, and so on, each the shorter way round (Dally and Towles,
"Principles and Practices of Interconnection Networks", 2004, chapter 8). Where both ways round are equal, which only
happens in rings of even size, they are alternatives; with t such dimensions there are 2**t ways. A ring of two is one
cable. Left out: meshes, twisted tori, routes that are not minimal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.fabrics.direct import Cables, Lattice, between_halves, fullest, port_sentences
from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.parts import Link, Switch
from dessim.cluster.routing.routes import NO_LINK, Pick, Segment, ways

AXES = "xyzuvw"
"""What the dimensions are called; there are no more."""


@dataclass(frozen=True, slots=True)
class Grid(Lattice):
    """What a file says: `size` routers along each dimension, `cables` in parallel between neighbours."""

    cable: Link
    cables: int
    switch: Switch | None


@dataclass(frozen=True, slots=True, eq=False)
class Torus:
    """NIC i sits on router `home[i]`.

    The link from router r one step forward along dimension d is `forward[d] + r`, one step back `backward[d] + r`.
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
        """Dimension after dimension. Bit i of an alternative's number is the way round in the i-th undecided one."""
        size, strides = np.array(self.grid.size), np.array(self.grid.strides)
        at, goal = self.home[src], self.home[dst]
        target = goal[:, None] // strides % size
        ahead = (target - at[:, None] // strides) % size
        undecided = (2 * ahead == size) & (size > 2)
        back, both = 2 * ahead > size, np.zeros_like(undecided)
        ties = undecided.sum(axis=1)
        for t in range(1, int(ties.max(initial=0)) + 1):
            rows = np.flatnonzero(ties == t)
            bit = undecided[rows] << np.maximum(np.cumsum(undecided[rows], axis=1) - 1, 0)
            # By destination: in every ring half of the places are reached forwards, half backwards.
            choice = pick(rows, 2**t, (target[rows] % 2 * bit).sum(axis=1))
            if choice is None:
                both[rows] = undecided[rows]
            else:
                back[rows] |= (choice[:, None] & bit) > 0
        segments = []
        for d in range(len(size)):
            moves = ahead[:, d] > 0
            one, two = np.flatnonzero(moves & ~both[:, d]), np.flatnonzero(both[:, d])
            segments.append(self._along(d, one, at[one], ahead[one, d], back[one, d, None]))
            segments.append(self._along(d, two, at[two], ahead[two, d], np.array([[False, True]])))
            at = at + (target[:, d] - at // strides[d] % size[d]) * strides[d]
        return segments

    def _along(self, d: int, rows: IntArray, at: IntArray, ahead: IntArray, back: IntArray) -> Segment:
        """From routers `at` [m] to the place `ahead` [m] of them, backwards where `back` [m, k] says so."""
        size, stride = self.grid.size[d], self.grid.strides[d]
        steps = np.where(back, size - ahead[:, None], ahead[:, None])[:, :, None]
        hop = np.arange(int(steps.max(initial=1)))
        place = (at // stride % size)[:, None, None]
        passes = (place + np.where(back, -1, 1)[:, :, None] * hop) % size
        first = np.where(back, self.backward[d], self.forward[d])[:, :, None]
        links = np.where(hop < steps, first + at[:, None, None] + (passes - place) * stride, NO_LINK)
        return ways(rows, links)

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """For halves of an even first dimension of n: two cuts of all rings, `2 * routers / n` cables each way."""
        return between_halves(self.home, first_half, nic_capacity, self.cables)

    def oversubscription(self, nic_capacity: FloatArray) -> float:
        """Of a router: its NICs over the links to its neighbours."""
        neighbours = sum(2 if n > 2 else 1 for n in self.grid.size)
        return fullest(self.home, nic_capacity) / (neighbours * self.grid.cables * self.grid.cable.capacity)

    def port_problems(self) -> list[str]:
        """One port a NIC and a cable."""
        neighbours = sum(2 if n > 2 else 1 for n in self.grid.size)
        ports = int(np.bincount(self.home).max()) + neighbours * self.grid.cables
        return port_sentences(self.switch, {"router": ports})


def build(builder: LinkBuilder, home: IntArray, grid: Grid) -> tuple[Torus, IntArray]:
    """The fabric, and the vertex each NIC is attached to."""
    first = builder.add_layer("router", grid.routers)
    router = np.arange(grid.routers)
    extra = grid.switch.latency if grid.switch else 0.0
    forward, backward, parts = [], [], []
    for d, (size, stride) in enumerate(zip(grid.size, grid.strides, strict=True)):
        place = router // stride % size
        blocks = []
        for sign, word in ((1, "plus"), (-1, "minus")) if size > 2 else ((1, "plus"),):
            head = router + ((place + sign) % size - place) * stride
            blocks.append(
                builder.add_links(
                    f"{AXES[d]}_{word}",
                    grid.cable,
                    first + router,
                    first + head,
                    extra_latency=extra,
                    bundle=grid.cables,
                )
            )
            parts.append((router, head, grid.cable.capacity * grid.cables))
        forward.append(blocks[0])
        backward.append(blocks[-1])
    fabric = Torus(grid, home, tuple(forward), tuple(backward), Cables.join(*parts))
    return fabric, first + home
