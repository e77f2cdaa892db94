"""Fabrics that several test files use, in one line each: mostly one-GPU hosts, without latency."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from dessim.cluster import Cluster
from dessim.cluster.links import IntArray
from tests.cluster.small_clusters import build, hosts, link

FAST, SLOW = link("1000 GB/s", "0 s"), link("10 GB/s", "0 s")
RATE = 10e9
"""Payload bytes/s of SLOW."""


def bed(count: int, node: dict[str, Any] | None = None, **fabric: Any) -> Cluster:
    """`count` hosts whose NICs are too fast to be the bottleneck, unless `node` changes them."""
    data = hosts(**fabric)
    data["node"].update({"count": count, "nic": FAST, **(node or {})})
    return build(data)


def torus(*size: int, hosts_each: int = 1, **more: Any) -> Cluster:
    count = hosts_each
    for n in size:
        count *= n
    return bed(count, **{"kind": "torus", "size": list(size), "cable": SLOW, "nodes_per_router": hosts_each, **more})


def dragonfly(a: int, p: int, h: int, g: int, **more: Any) -> Cluster:
    """g groups of a routers, each router with p hosts and h global links."""
    fabric = {"groups": g, "routers_per_group": a, "nodes_per_router": p, "globals_per_router": h}
    return bed(g * a * p, **{"kind": "dragonfly", **fabric, "local_link": SLOW, "global_link": SLOW, **more})


def dragonfly_plus(leaves: int, p: int, spines: int, h: int, g: int, **more: Any) -> Cluster:
    """g groups of leaves and spines, each leaf with p hosts and each spine with h global links."""
    fabric = {"leaves_per_group": leaves, "nodes_per_leaf": p, "spines_per_group": spines, "globals_per_spine": h}
    links = {"local_link": SLOW, "global_link": SLOW}
    return bed(g * leaves * p, **{"kind": "dragonfly_plus", "groups": g, **fabric, **links, **more})


def hyperx(size: list[int], cables: list[int], p: int, **more: Any) -> Cluster:
    count = p
    for n in size:
        count *= n
    fabric = {"size": size, "cables": cables, "cable": SLOW, "nodes_per_router": p}
    return bed(count, **{"kind": "hyperx", **fabric, **more})


def rail_only(nodes: int, gpus: int, nvlink: float = 3.0, **more: Any) -> Cluster:
    """Nodes on rails, with NVLink `nvlink` times as fast as a NIC."""
    node = {"gpus": gpus, "nics": gpus, "nic": SLOW, "nvlink": link(f"{nvlink * 10} GB/s", "0 s")}
    return bed(nodes, node, **{"kind": "rail_only", **more})


def racks(nodes: int, trays: int, gpus: int, **scale_out: Any) -> Cluster:
    """NVLink domains of `trays` trays with `gpus` GPUs each."""
    node = {"gpus": trays * gpus, "nics": trays * gpus, "nvlink": FAST}
    return bed(nodes, node, kind="nvlink_domain", trays_per_node=trays, scale_out={"uplink": SLOW, **scale_out})


def graph(nodes: dict[str, int], links: list[tuple[str, str]], **more: Any) -> Cluster:
    edges = [{"between": list(pair)} for pair in links]
    return bed(sum(nodes.values()), **{"kind": "graph", "cable": SLOW, "nodes": nodes, "links": edges, **more})


def grid_graph(rows: int, columns: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A torus as lists of switches and cables."""
    names = {(x, y): f"s{x}.{y}" for x, y in product(range(rows), range(columns))}
    right = [(names[x, y], names[x, (y + 1) % columns]) for x, y in names]
    below = [(names[x, y], names[(x + 1) % rows, y]) for x, y in names]
    return dict.fromkeys(names.values(), 1), right + below


def number_of_routes(cluster: Cluster, src: int, dst: int) -> int:
    """The number of alternatives that the fabric offers to a flow between two NICs."""
    offered = []

    def pick(rows: IntArray, k: int, static: IntArray) -> IntArray | None:
        if len(rows):
            assert ((static >= 0) & (static < k)).all()
            offered.append(k)
        return None

    cluster.fabric.segments(np.array([src]), np.array([dst]), pick)
    assert len(offered) <= 1
    return offered[0] if offered else 1


SMALL = {
    "torus": lambda **more: torus(4, 4, **more),
    "dragonfly": lambda **more: dragonfly(4, 2, 1, 3, **more),
    "dragonfly by Valiant": lambda **more: dragonfly(2, 1, 2, 5, valiant=True, **more),
    "dragonfly_plus": lambda **more: dragonfly_plus(2, 2, 2, 1, 3, **more),
    "dragonfly_plus by Valiant": lambda **more: dragonfly_plus(2, 2, 2, 2, 5, valiant=True, **more),
    "hyperx": lambda **more: hyperx([3, 3], [1, 1], 2, **more),
    "rail_only": lambda **more: rail_only(6, 2, nodes_per_leaf=2, spines_per_rail=2, uplink=SLOW, **more),
    "nvlink_domain": lambda **more: racks(4, 2, 2, kind="rail_optimised", nodes_per_pod=2, spines=2, **more),
    "graph": lambda **more: graph(*grid_graph(3, 4), **more),
}
"""A small cluster of each kind of fabric that has several routes."""
