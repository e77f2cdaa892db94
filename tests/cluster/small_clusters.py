"""Topology files as dictionaries, and small random clusters for property tests."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from dessim.cluster import Cluster
from dessim.cluster.load import build_cluster, load_catalogue
from dessim.cluster.spec import TopologyFile


def link(rate: str = "50 GB/s", latency: str = "1 us", efficiency: float = 1.0) -> dict[str, Any]:
    return {"rate": rate, "efficiency": efficiency, "latency": latency, "source": "test"}


HOSTS: dict[str, Any] = {
    "gpu": "h100-sxm",
    "transport": "ideal",
    "node": {"count": 8, "gpus": 1, "nics": 1, "nic": link()},
    "fabric": {"kind": "single_switch"},
}
"""One-GPU hosts on one switch; tests change what they need."""


def hosts(**fabric: Any) -> dict[str, Any]:
    """A copy of HOSTS with another fabric."""
    data = copy.deepcopy(HOSTS)
    if fabric:
        data["fabric"] = fabric
    return data


def build(data: dict[str, Any]) -> Cluster:
    """A cluster from the dictionary of a topology file."""
    return build_cluster(TopologyFile.model_validate(data, context=load_catalogue()), Path("test.toml"))


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    """Any kind of fabric, any node: with and without NVLink and PCIe, shared NICs, last leaf partly full."""
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
    kind = draw(st.sampled_from(["single_switch", "leaf_spine", "rail_optimised", "fat_tree"]))
    fabric: dict[str, Any] = {"kind": kind}
    if draw(st.booleans()):
        fabric["switch"] = "quantum-2"
    if kind != "single_switch":
        fabric["spines_per_pod" if kind == "fat_tree" else "spines"] = draw(st.integers(1, 4))
        fabric["links_per_spine"] = draw(st.integers(1, 2))
        fabric["uplink"] = link(f"{draw(st.integers(1, 5))} GB/s", "0.7 us")
        fabric["routing"] = draw(st.sampled_from(["split", "static"]))
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
    return build({"gpu": "h100-sxm", "transport": "ideal", "node": node, "fabric": fabric})
