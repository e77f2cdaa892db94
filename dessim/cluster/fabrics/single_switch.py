"""All NICs on one non-blocking switch: a message crosses the links of two NICs and no other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.parts import Switch
from dessim.cluster.routing.routes import Pick, Segment


@dataclass(frozen=True, slots=True)
class SingleSwitch:
    """One switch with `n_nics` NICs attached."""

    n_nics: int
    switch: Switch | None
    kind: str = "single_switch"
    rail_aware: bool = False

    def segments(self, src: IntArray, dst: IntArray, pick: Pick) -> list[Segment]:
        """There is no link between those of the two NICs."""
        return []

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """The NICs of the smaller half are the bound."""
        return float(min(nic_capacity[first_half == 1].sum(), nic_capacity[first_half == 0].sum()))

    def oversubscription(self, nic_capacity: FloatArray) -> float:
        """1, because a single switch has no uplinks."""
        return 1.0

    def port_problems(self) -> list[str]:
        """The switch needs one port for each NIC."""
        if self.switch is None or self.n_nics <= self.switch.ports:
            return []
        return [f"{self.n_nics} NICs on one {self.switch.name}, which has {self.switch.ports} ports"]


def build(builder: LinkBuilder, n_nics: int, switch: Switch | None) -> tuple[SingleSwitch, IntArray]:
    """Add the switch; return the fabric, and the vertex to which each NIC is attached."""
    first = builder.add_layer("switch", 1)
    return SingleSwitch(n_nics, switch), np.full(n_nics, first)
