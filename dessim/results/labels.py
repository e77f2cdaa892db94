"""Words for link classes and bounds on screen: in tables, figures and the report. JSON keeps the machine names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dessim.results.critical_path import HOST
from dessim.sim.core.bounds import COMPUTE, CORES, FLOW_CAP, LATE, LATENCY, QUEUE, REDUCTION, SERVICE

LINK_LABELS = {
    "nvlink_up": "NVLink, sending",
    "nvlink_down": "NVLink, receiving",
    "pcie_up": "PCIe, sending",
    "pcie_down": "PCIe, receiving",
    "pcie_nic_up": "PCIe, switch to NIC",
    "pcie_nic_down": "PCIe, NIC to switch",
    "pcie_host_up": "PCIe, switch to CPU",
    "pcie_host_down": "PCIe, CPU to switch",
    "socket": "links between CPU sockets",
    "nic_up": "NIC, sending",
    "nic_down": "NIC, receiving",
    "leaf_up": "leaf-to-spine uplinks",
    "leaf_down": "spine-to-leaf downlinks",
    "spine_up": "spine-to-core uplinks",
    "spine_down": "core-to-spine downlinks",
    "local": "links within groups",
    "global": "links between groups",
    "cable": "links between switches",
}

BOUND_LABELS = {
    **LINK_LABELS,
    COMPUTE: "compute",
    HOST: "host",
    LATENCY: "latency",
    FLOW_CAP: "rate limit per flow",
    REDUCTION: "reduction at the receiver",
    LATE: "late rank",
    CORES: "waiting for a core",
    QUEUE: "server queue",
    SERVICE: "server work",
}

# A figure has one panel for both directions of a full-duplex link.
_PAIR_LABELS = {
    "nvlink": "NVLink",
    "pcie": "PCIe",
    "pcie_nic": "PCIe, switch – NIC",
    "pcie_host": "PCIe, switch – CPU",
    "nic": "NIC",
    "leaf": "leaf – spine",
    "spine": "spine – core",
}
_BUSIER = 1.1
"""The compute on the critical path over that of the mean rank, from which it is that of a busier one."""
_DIRECTIONS = {"up": "out of the GPU", "down": "towards the GPU"}


def link_label(link_class: str) -> str:
    """The words for a link class; its own name if it is none of ours."""
    if link_class in LINK_LABELS:
        return LINK_LABELS[link_class]
    axis, _, direction = link_class.rpartition("_")
    match direction:
        case "plus":
            return f"torus links, +{axis}"
        case "minus":
            return f"torus links, −{axis}"
        case "line":
            return f"links along {axis}"
    return link_class


def bound_label(bound: str) -> str:
    """The words for what bounds an op or a step: a link class, compute, latency, a late rank, ..."""
    return BOUND_LABELS.get(bound) or link_label(bound)


def step_bound_label(step: Mapping[str, Any]) -> str:
    """The words for what bounds a step (an object of `--json`).

    Ranks wait in collectives for the rank that computes longest. Their waits count as exposed communication, although
    compute bounds the step. Where that makes exposed communication, or idle time, the largest part of the mean rank's
    step, the words say whose compute it is.
    """
    bound = step.get("bound_by")
    if not bound:
        return ""
    words = bound_label(str(bound))
    if bound != COMPUTE or step["compute_s"] >= max(step["exposed_comm_s"], step["idle_s"]):
        return words
    on_path = sum(op["time_by_bound_s"].get(COMPUTE, 0.0) for op in step.get("critical_path", ()))
    return f"{words}, busiest rank" if on_path > _BUSIER * step["compute_s"] else words


def link_pair(link_class: str) -> tuple[str, str]:
    """The words for a full-duplex link, and for the direction that `link_class` is; other classes have no direction.

    `nic_up` gives ("NIC", "out of the GPU"), `global` gives ("links between groups", "").
    """
    name, _, direction = link_class.rpartition("_")
    if name in _PAIR_LABELS and direction in _DIRECTIONS:
        return _PAIR_LABELS[name], _DIRECTIONS[direction]
    return link_label(link_class), ""
