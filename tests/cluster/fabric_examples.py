"""Fabrics that several test files use, in one line each: mostly one-GPU hosts, without latency."""

from __future__ import annotations

from typing import Any

from dessim.cluster import Cluster
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
