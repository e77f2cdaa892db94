"""What fabrics share whose NICs sit on switches that are joined to one another, without a tier above them.

Here a switch with NICs is called a router, as the literature on these networks does (Dally and Towles, "Principles and
Practices of Interconnection Networks", 2004).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.cluster.links import FloatArray, IntArray
from dessim.cluster.parts import Switch


@dataclass(frozen=True, slots=True, eq=False)
class Cables:
    """One direction of each cable: it goes from switch `tail` to switch `head` [n] with `capacity` [n] bytes/s."""

    tail: IntArray
    head: IntArray
    capacity: FloatArray

    @classmethod
    def join(cls, *parts: tuple[IntArray, IntArray, float]) -> Cables:
        """Blocks of equal cables, one after the other."""
        tails, heads, rates = zip(*parts, strict=True)
        capacity = np.repeat(np.array(rates, dtype=np.float64), [len(tail) for tail in tails])
        return cls(np.concatenate(tails), np.concatenate(heads), capacity)


def numbers(choice: IntArray | None, m: int, k: int) -> IntArray:
    """The alternatives that m flows take, [m, 1] where `choice` [m] says which, else all k of them, [m, k]."""
    return np.broadcast_to(np.arange(k), (m, k)) if choice is None else choice[:, None]


def between_halves(router: IntArray, first_half: IntArray, nic_capacity: float, switches: int, cables: Cables) -> float:
    """Bytes/s from the NICs of the first half to the others: the narrowest of the cuts that can matter.

    `router` [n_nics] is where each NIC sits, below `switches`. Traffic turns round first in a router that both halves
    share. What is left must leave its routers, cross from the routers of one half to those of the other, and enter
    those; each of these is a cut, so none can be exceeded, and in networks as regular as these the narrowest is met.
    """
    supply = nic_capacity * np.bincount(router[first_half == 1], minlength=switches)
    demand = nic_capacity * np.bincount(router[first_half == 0], minlength=switches)
    turned = np.minimum(supply, demand)
    supply, demand = supply - turned, demand - turned
    leaves = np.bincount(cables.tail, cables.capacity, minlength=switches)
    enters = np.bincount(cables.head, cables.capacity, minlength=switches)
    crossing = [cables.capacity[near[cables.tail] & ~near[cables.head]].sum() for near in (supply > 0, demand <= 0)]
    narrowest = min(np.minimum(supply, leaves).sum(), np.minimum(demand, enters).sum(), *crossing)
    return float(turned.sum() + narrowest)


def port_sentences(switch: Switch | None, needs: dict[str, int]) -> list[str]:
    """One sentence for each kind of switch that needs more ports than it has."""
    if switch is None:
        return []
    has = f"a {switch.name} has {switch.ports}"
    return [f"a {kind} needs {ports} ports, {has}" for kind, ports in needs.items() if ports > switch.ports]
