"""Topology files as dictionaries, and small random clusters for property tests."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from dessim.cluster import Cluster
from dessim.cluster.load import build_cluster, load_catalogue
from dessim.cluster.spec.topology_file import TopologyFile


def link(rate: str = "50 GB/s", latency: str = "1 us", efficiency: float = 1.0) -> dict[str, Any]:
    return {"rate": rate, "efficiency": efficiency, "latency": latency, "source": "test"}


HOSTS: dict[str, Any] = {
    "gpu": "h100-sxm",
    "transport": "ideal",
    "node": {"count": 8, "gpus": 1, "nics": 1, "nic": link()},
    "fabric": {"kind": "single_switch"},
}
"""One-GPU hosts on one switch, which tests change as they need."""


def hosts(**fabric: Any) -> dict[str, Any]:
    """A copy of HOSTS with another fabric."""
    data = copy.deepcopy(HOSTS)
    if fabric:
        data["fabric"] = fabric
    return data


def build(data: dict[str, Any]) -> Cluster:
    """A cluster from the dictionary of a topology file."""
    return build_cluster(TopologyFile.model_validate(data, context=load_catalogue()), Path("test.toml"))


TREES = ("single_switch", "leaf_spine", "rail_optimised", "fat_tree", "rail_only", "nvlink_domain")
ROUTERS = ("torus", "dragonfly", "dragonfly_plus", "hyperx", "graph")


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    """Any kind of fabric and node: with and without NVLink and PCIe, shared NICs, last leaf partly full."""
    data = draw(st.one_of(_tiers(), _routers()))
    if "routing" in (fabric := data["fabric"].get("scale_out", data["fabric"])):
        fabric["routing"] = draw(st.sampled_from(["split", "static", "ecmp"]))
    return build(data)


@st.composite
def tiered_clusters(draw: st.DrawFn) -> Cluster:
    """Fabrics of tiers only, on which every shortest path is a route."""
    return build(draw(_tiers()))


@st.composite
def mixed_clusters(draw: st.DrawFn) -> Cluster:
    """Fabrics of tiers with two or three kinds of servers."""
    data = draw(_tiers())
    first, fabric = data["node"], data["fabric"]
    nodes = [first, *(_node(draw) for _ in range(draw(st.integers(1, 2))))]
    if fabric["kind"] in ("rail_only", "nvlink_domain"):
        for node in nodes:
            if node["nics"] != first["nics"]:
                node |= {"nics": first["nics"], "gpus": first["nics"], "pcie_switches": None, "sockets": 1}
                node.pop("socket_link", None)
            node["nvlink"] = link("20 GB/s", "0.3 us")
    nodes[-1]["gpu"] = draw(st.sampled_from(["h100-sxm", "a100-sxm-40gb"]))
    return build({**data, "node": nodes})


def _rate(draw: st.DrawFn, latency: str) -> dict[str, Any]:
    return link(f"{draw(st.integers(1, 5))} GB/s", latency)


@st.composite
def _routers(draw: st.DrawFn) -> dict[str, Any]:
    """Fabrics of routers, full or not, with hosts of one or two NICs."""
    nics, places = draw(st.sampled_from([1, 2])), draw(st.integers(1, 2))
    kind = draw(st.sampled_from(ROUTERS))
    fabric: dict[str, Any] = {"kind": kind, "routing": "split"}
    if kind in ("torus", "hyperx"):
        size = draw(st.lists(st.integers(2, 4), min_size=1, max_size=3))
        routers = math.prod(size)
        cables = draw(st.integers(1, 2))
        fabric |= {"size": size, "cable": _rate(draw, "0.7 us"), "nodes_per_router": places}
        fabric["cables"] = cables if kind == "torus" else [cables] * len(size)
    elif kind == "graph":
        routers, places = draw(st.integers(2, 8)), 1
        names = [f"s{i}" for i in range(routers)]
        pairs = {(draw(st.integers(0, i - 1)), i) for i in range(1, routers)}  # a spanning tree and some more edges
        pairs |= draw(st.sets(st.tuples(st.integers(0, routers - 1), st.integers(0, routers - 1)), max_size=6))
        pairs = {(min(a, b), max(a, b)) for a, b in pairs if a != b}
        edges = [{"between": [names[a], names[b]], "cables": draw(st.integers(1, 2))} for a, b in sorted(pairs)]
        fabric |= {"cable": _rate(draw, "0.7 us"), "nodes": dict.fromkeys(names, 1), "links": edges}
    else:
        per_group, each = draw(st.integers(1, 4)), draw(st.integers(1, 2))
        groups = draw(st.integers(max(2, each + 1), max(2, per_group * each + 1)))
        per_group, each = (per_group, each) if per_group * each >= groups - 1 else (groups - 1, 1)
        routers = groups * per_group
        fabric |= {"groups": groups, "local_link": _rate(draw, "0.3 us"), "global_link": _rate(draw, "0.9 us")}
        fabric["valiant"] = draw(st.booleans())
        if kind == "dragonfly":
            fabric |= {"routers_per_group": per_group, "globals_per_router": each, "nodes_per_router": places}
        else:
            leaves = draw(st.integers(1, 3))
            routers = groups * leaves
            fabric |= {"spines_per_group": per_group, "globals_per_spine": each}
            fabric |= {"leaves_per_group": leaves, "nodes_per_leaf": places}
    full = routers * places
    count = full if kind == "graph" or draw(st.booleans()) else draw(st.integers(1, full))
    node = {"count": count, "gpus": nics, "nics": nics, "nic": _rate(draw, "1 us")}
    return {"gpu": "h100-sxm", "transport": "ideal", "node": node, "fabric": fabric}


def _node(draw: st.DrawFn) -> dict[str, Any]:
    """A server with or without NVLink and PCIe, whose GPUs may share NICs."""
    nics = draw(st.sampled_from([1, 2, 4]))
    share = draw(st.sampled_from([1, 2]))
    node: dict[str, Any] = {
        "count": draw(st.integers(1, 9)),
        "gpus": nics * share,
        "nics": nics,
        "nic": link(f"{draw(st.integers(1, 5))} GB/s", "1 us"),
    }
    if draw(st.booleans()):
        node["nvlink"] = link("20 GB/s", "0.3 us")
        if draw(st.booleans()):
            node["nvswitch"] = "nvswitch-gen3"
    if share > 1 or draw(st.booleans()):
        node["pcie"] = link(f"{draw(st.integers(1, 5))} GB/s", "0.4 us")
        if draw(st.booleans()):
            node["pcie_switches"] = draw(st.sampled_from([s for s in (1, 2, 4) if nics % s == 0]))
            if node["pcie_switches"] % 2 == 0:
                node |= {"sockets": 2, "socket_link": _rate(draw, "0.2 us")}
    return node


@st.composite
def _tiers(draw: st.DrawFn) -> dict[str, Any]:
    node = _node(draw)
    kind = draw(st.sampled_from(TREES))
    if kind == "nvlink_domain":
        return _domains(draw, node)
    fabric: dict[str, Any] = {"kind": kind}
    if draw(st.booleans()):
        fabric["switch"] = "quantum-2"
    if kind == "rail_only":
        node["nvlink"] = link("20 GB/s", "0.3 us")
        if draw(st.booleans()):
            fabric |= {"nodes_per_leaf": draw(st.integers(1, 4)), "spines_per_rail": draw(st.integers(1, 3))}
            fabric["uplink"] = _rate(draw, "0.7 us")
            fabric["routing"] = "split"
    elif kind != "single_switch":
        fabric["spines_per_pod" if kind == "fat_tree" else "spines"] = draw(st.integers(1, 4))
        fabric["links_per_spine"] = draw(st.integers(1, 2))
        fabric["uplink"] = link(f"{draw(st.integers(1, 5))} GB/s", "0.7 us")
        fabric["routing"] = "split"
    if kind in ("leaf_spine", "fat_tree"):
        fabric["nodes_per_leaf"] = draw(st.integers(1, 4))
    if kind == "fat_tree":
        fabric["leaves_per_pod"] = draw(st.integers(1, 3))
        fabric["cores_per_spine"] = draw(st.integers(1, 3))
        fabric["links_per_core"] = draw(st.integers(1, 2))
        if draw(st.booleans()):
            fabric["core_uplink"] = link(f"{draw(st.integers(1, 5))} GB/s", "0.9 us")
    if kind == "rail_optimised":
        fabric["nodes_per_pod"] = draw(st.integers(1, 4))
        fabric["rail_aware"] = draw(st.booleans())
    return {"gpu": "h100-sxm", "transport": "ideal", "node": node, "fabric": fabric}


def _domains(draw: st.DrawFn, node: dict[str, Any]) -> dict[str, Any]:
    """Nodes of one or two trays, whose NICs are on one leaf per rail or all on one leaf."""
    trays = draw(st.sampled_from([t for t in (1, 2) if node["nics"] % t == 0]))
    scale_out = {"kind": "leaf_spine", "nodes_per_leaf": draw(st.integers(1, 4))}
    if draw(st.booleans()):
        scale_out = {"kind": "rail_optimised", "nodes_per_pod": draw(st.integers(1, 4))}
    scale_out |= {"spines": draw(st.integers(1, 3)), "uplink": _rate(draw, "0.7 us"), "routing": "split"}
    node["nvlink"] = link("20 GB/s", "0.3 us")
    fabric = {"kind": "nvlink_domain", "trays_per_node": trays, "scale_out": scale_out}
    return {"gpu": "h100-sxm", "transport": "ideal", "node": node, "fabric": fabric}
