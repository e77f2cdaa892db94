"""All NICs on one non-blocking switch: a message crosses two NIC links and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.parts import Switch
from dessim.cluster.routing.routes import Pick, Segment


@dataclass(frozen=True, slots=True)
class SingleSwitch:
    """One switch with `n_nics` NICs."""

    n_nics: int
    switch: Switch | None
    kind: str = "single_switch"
    rail_aware: bool = False

    def segments(self, src: IntArray, dst: IntArray, pick: Pick) -> list[Segment]:
        """Nothing lies between the two NIC links."""
        return []

    def bisection(self, nic_capacity: FloatArray, first_half: IntArray) -> float:
        """The smaller side's NICs are the bound."""
        return float(min(nic_capacity[first_half == 1].sum(), nic_capacity[first_half == 0].sum()))

    def oversubscription(self, nic_capacity: FloatArray) -> float:
        """A single switch has no uplinks."""
        return 1.0

    def port_problems(self) -> list[str]:
        """One port a NIC."""
        if self.switch is None or self.n_nics <= self.switch.ports:
            return []
        return [f"{self.n_nics} NICs on one {self.switch.name}, which has {self.switch.ports} ports"]


def build(builder: LinkBuilder, n_nics: int, switch: Switch | None) -> tuple[SingleSwitch, IntArray]:
    """The fabric, and the vertex each NIC is attached to."""
    first = builder.add_layer("switch", 1)
    return SingleSwitch(n_nics, switch), np.full(n_nics, first)
