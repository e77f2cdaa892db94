"""Shared code of fabrics, above all of direct networks: NICs on switches that are joined to one another.

Direct networks have no tier of switches above those with NICs. A switch with NICs is called a router here, as in the
literature on these networks (Dally and Towles, "Principles and Practices of Interconnection Networks", 2004).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dessim.cluster.links import FloatArray, IntArray
from dessim.cluster.parts import Switch

EXACT_CABLES = 50_000
"""Largest number of directed cables for which the maximum flow is computed; it takes about a second."""


@dataclass(frozen=True, slots=True, eq=False)
class Cables:
    """Directed cables, one for each direction: from switch `tail` to switch `head` [n], with `capacity` [n] bytes/s."""

    tail: IntArray
    head: IntArray
    capacity: FloatArray

    @classmethod
    def join(cls, *blocks: tuple[IntArray, IntArray, float]) -> Cables:
        """Concatenate blocks (tails, heads, capacity) of cables with the same capacity."""
        tails, heads, rates = zip(*blocks, strict=True)
        capacity = np.repeat(np.array(rates, dtype=np.float64), [len(tail) for tail in tails])
        return cls(np.concatenate(tails), np.concatenate(heads), capacity)


@dataclass(frozen=True, slots=True)
class Lattice:
    """Routers at the points of a lattice, `size` of them along each dimension, numbered with the last one fastest."""

    size: tuple[int, ...]

    @property
    def routers(self) -> int:
        """Number of routers."""
        return math.prod(self.size)

    @property
    def strides(self) -> list[int]:
        """Difference between the numbers of neighbours along each dimension."""
        return [math.prod(self.size[d + 1 :]) for d in range(len(self.size))]


def alternatives(choice: IntArray | None, m: int, k: int) -> IntArray:
    """The alternatives that m flows take: the one in `choice` [m] as [m, 1], or all k of them as [m, k] if None."""
    return np.broadcast_to(np.arange(k), (m, k)) if choice is None else choice[:, None]


def port_on(home: IntArray) -> IntArray:
    """The place of each NIC among those on its switch, [n_nics]; `home` [n_nics] holds the switches, ascending."""
    port: IntArray = np.arange(len(home)) - np.searchsorted(home, home)
    return port


def fullest(home: IntArray, nic_capacity: FloatArray) -> float:
    """Bytes/s of the NICs on the switch whose NICs send most."""
    return float(np.bincount(home, nic_capacity).max())


def halves(
    home: IntArray, first_half: IntArray, nic_capacity: FloatArray, switches: int
) -> tuple[FloatArray, FloatArray]:
    """Bytes/s of the NICs on each switch, [switches]: of those in the first half, and of the others."""
    supply: FloatArray = np.bincount(home, nic_capacity * first_half, minlength=switches).astype(np.float64)
    demand: FloatArray = np.bincount(home, nic_capacity * (1 - first_half), minlength=switches).astype(np.float64)
    return supply, demand


def between_halves(
    home: IntArray, first_half: IntArray, nic_capacity: FloatArray, cables: Cables, group: IntArray | None = None
) -> float:
    """Bytes/s from the NICs of the first half to the others, where NIC i is on switch `home[i]`.

    With up to `EXACT_CABLES` cables this is the maximum flow, by networkx. With more it is the smallest of several
    cuts, an upper bound that regular fabrics attain. The cuts are the NICs of either half, the cables between the
    switches of the two halves, and the cables between groups, each group (`group` [switches]) being assigned to the
    half with more of its NIC bandwidth.
    """
    switches = len(group) if group is not None else int(max(home.max(), cables.tail.max(initial=0))) + 1
    supply, demand = halves(home, first_half, nic_capacity, switches)
    local = np.minimum(supply, demand)  # reaches the other half without leaving its switch
    supply = supply - local
    demand = demand - local
    if len(cables.tail) <= EXACT_CABLES:
        return float(local.sum()) + _maximum_flow(supply, demand, cables)
    supply = np.minimum(supply, np.bincount(cables.tail, cables.capacity, minlength=switches))
    demand = np.minimum(demand, np.bincount(cables.head, cables.capacity, minlength=switches))
    none = np.zeros(switches, dtype=bool)
    source_sides = [none, ~none, supply > 0, demand <= 0]
    if group is not None:
        source_sides.append(np.bincount(group, supply - demand)[group] > 0)
    cuts = [
        supply[~side].sum() + demand[side].sum() + cables.capacity[side[cables.tail] & ~side[cables.head]].sum()
        for side in source_sides
    ]
    return float(local.sum() + min(cuts))


def _maximum_flow(supply: FloatArray, demand: FloatArray, cables: Cables) -> float:
    """Maximum flow over the cables, in bytes/s, from switches that supply to switches that demand [switches]."""
    import networkx as nx  # here, because most commands do not need it

    graph: nx.DiGraph[int | str] = nx.DiGraph()
    graph.add_nodes_from(("from", "to"))
    columns = (cables.tail.tolist(), cables.head.tolist(), cables.capacity.tolist())
    graph.add_weighted_edges_from(zip(*columns, strict=True), weight="capacity")
    graph.add_weighted_edges_from((("from", i, supply[i]) for i in np.flatnonzero(supply).tolist()), "capacity")
    graph.add_weighted_edges_from(((i, "to", demand[i]) for i in np.flatnonzero(demand).tolist()), "capacity")
    return float(nx.maximum_flow_value(graph, "from", "to"))


def port_sentences(switch: Switch | None, needs: dict[str, int]) -> list[str]:
    """One sentence for each kind of switch that needs more ports than it has; `needs` holds ports by kind."""
    if switch is None:
        return []
    available = f"but {switch.name} has {switch.ports}"
    return [f"a {kind} needs {ports} ports, {available}" for kind, ports in needs.items() if ports > switch.ports]
