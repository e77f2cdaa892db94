"""What fabrics share whose NICs sit on switches that are joined to one another, without a tier above them.

Here a switch with NICs is called a router, as the literature on these networks does (Dally and Towles, "Principles and
Practices of Interconnection Networks", 2004).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import networkx as nx
import numpy as np

from dessim.cluster.links import FloatArray, IntArray
from dessim.cluster.parts import Switch

EXACT_CABLES = 50_000
"""Directed cables up to which the maximum flow is worked out: about a second."""


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


@dataclass(frozen=True, slots=True)
class Lattice:
    """Routers at the places of a lattice, `size` of them along each dimension."""

    size: tuple[int, ...]

    @property
    def routers(self) -> int:
        return math.prod(self.size)

    @property
    def strides(self) -> list[int]:
        """How far apart in number neighbours along each dimension are; the last dimension is the fastest."""
        return [math.prod(self.size[d + 1 :]) for d in range(len(self.size))]


def numbers(choice: IntArray | None, m: int, k: int) -> IntArray:
    """The alternatives that m flows take, [m, 1] where `choice` [m] says which, else all k of them, [m, k]."""
    return np.broadcast_to(np.arange(k), (m, k)) if choice is None else choice[:, None]


def port_on(home: IntArray) -> IntArray:
    """Which of the NICs on its switch each NIC is [n_nics]; `home` [n_nics], the switch of each, must not fall."""
    port: IntArray = np.arange(len(home)) - np.searchsorted(home, home)
    return port


def fullest(home: IntArray, nic_capacity: FloatArray) -> float:
    """Bytes/s that the NICs of the fullest switch send."""
    return float(np.bincount(home, nic_capacity).max())


def halves(
    home: IntArray, first_half: IntArray, nic_capacity: FloatArray, switches: int
) -> tuple[FloatArray, FloatArray]:
    """Bytes/s of the NICs on each switch [switches]: those of the first half, and the others."""
    supply: FloatArray = np.bincount(home, nic_capacity * first_half, minlength=switches).astype(np.float64)
    demand: FloatArray = np.bincount(home, nic_capacity * (1 - first_half), minlength=switches).astype(np.float64)
    return supply, demand


def between_halves(
    home: IntArray, first_half: IntArray, nic_capacity: FloatArray, cables: Cables, group: IntArray | None = None
) -> float:
    """Bytes/s from the NICs of the first half to the others, where NIC i is on switch `home[i]`.

    Up to `EXACT_CABLES` this is the maximum flow, by networkx. Beyond that it is the narrowest of some cuts, which none
    exceeds and regular fabrics meet: what the NICs of either half can do, the cables between the switches of the two
    halves, and those between the groups that belong rather to one than to the other (`group` [switches]).
    """
    switches = len(group) if group is not None else int(max(home.max(), cables.tail.max(initial=0))) + 1
    supply, demand = halves(home, first_half, nic_capacity, switches)
    turned = np.minimum(supply, demand)  # goes to the other half without leaving its switch
    supply, demand = supply - turned, demand - turned
    if len(cables.tail) <= EXACT_CABLES:
        return float(turned.sum()) + _maximum_flow(supply, demand, cables)
    supply = np.minimum(supply, np.bincount(cables.tail, cables.capacity, minlength=switches))
    demand = np.minimum(demand, np.bincount(cables.head, cables.capacity, minlength=switches))
    nobody = np.zeros(switches, dtype=bool)
    near = [nobody, ~nobody, supply > 0, demand <= 0]
    if group is not None:
        near.append(np.bincount(group, supply - demand)[group] > 0)
    cuts = [
        supply[~side].sum() + demand[side].sum() + cables.capacity[side[cables.tail] & ~side[cables.head]].sum()
        for side in near
    ]
    return float(turned.sum() + min(cuts))


def _maximum_flow(supply: FloatArray, demand: FloatArray, cables: Cables) -> float:
    graph: nx.DiGraph[int | str] = nx.DiGraph()
    graph.add_nodes_from(("from", "to"))
    columns = (cables.tail.tolist(), cables.head.tolist(), cables.capacity.tolist())
    graph.add_weighted_edges_from(zip(*columns, strict=True), weight="capacity")
    graph.add_weighted_edges_from((("from", i, supply[i]) for i in np.flatnonzero(supply).tolist()), "capacity")
    graph.add_weighted_edges_from(((i, "to", demand[i]) for i in np.flatnonzero(demand).tolist()), "capacity")
    return float(nx.maximum_flow_value(graph, "from", "to"))


def port_sentences(switch: Switch | None, needs: dict[str, int]) -> list[str]:
    """One sentence for each kind of switch that needs more ports than it has."""
    if switch is None:
        return []
    has = f"a {switch.name} has {switch.ports}"
    return [f"a {kind} needs {ports} ports, {has}" for kind, ports in needs.items() if ports > switch.ports]
