"""Copies of a cluster with one quantity scaled and everything else equal, for what-if runs.

Links, parts and transport are scaled. Facts about the cluster as built (bisection, oversubscription) do not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from dessim.cluster.graph import Cluster
from dessim.cluster.links import Links
from dessim.cluster.parts import Gpu, Link, Node

KNOBS = {
    "nic_rate": "rate of every NIC, in both directions",
    "nvlink_rate": "rate of NVLink, in both directions",
    "pcie_rate": "rate of PCIe and of the links between sockets",
    "uplink_rate": "rate of every link between switches",
    "gpu_flops": "FLOP/s of a GPU",
    "gpu_memory": "bandwidth of a GPU's memory",
    "latency": "latency of every link",
    "overhead": "overhead of a kernel launch, a message and a collective call",
    "flow_rate": "rate cap of a single flow",
    "reduction_rate": "rate at which a rank sums the data it received",
}
"""The quantities that can be scaled, with a description of each."""

_NODE_PARTS = {"nic_rate": ("nic",), "nvlink_rate": ("nvlink",), "pcie_rate": ("pcie", "pcie_uplink", "socket_link")}
"""Fields of `Node` that a rate scales."""
_KIND_PREFIXES = {"nic_rate": ("nic_",), "nvlink_rate": ("nvlink_",), "pcie_rate": ("pcie_", "socket")}
"""Prefixes of the kinds of links that a rate scales."""


def has(cluster: Cluster, knob: str) -> bool:
    """Return whether the cluster has the quantity that `knob` scales."""
    if knob in _KIND_PREFIXES:
        return any(kind.startswith(_KIND_PREFIXES[knob]) for kind in cluster.links.kinds)
    if knob == "uplink_rate":
        return cluster.wiring.first_server_link > 0
    if knob in ("flow_rate", "reduction_rate"):
        return bool(getattr(cluster.transport, knob) < np.inf)
    return knob in KNOBS


def scaled(cluster: Cluster, knob: str, factor: float) -> Cluster:
    """Return the cluster with the quantity `knob` (of KNOBS) multiplied by `factor`.

    The factor may be 0 for `latency` and `overhead` only.
    """
    transport = cluster.transport
    nccl = transport.nccl
    if knob == "gpu_flops":
        return _with_gpus(cluster, lambda gpu: gpu.faster(factor))
    if knob == "gpu_memory":
        return _with_gpus(cluster, lambda gpu: replace(gpu, memory_bandwidth=gpu.memory_bandwidth * factor))
    if knob in ("flow_rate", "reduction_rate"):
        return replace(cluster, transport=replace(transport, **{knob: getattr(transport, knob) * factor}))
    if knob == "overhead":
        return replace(
            _with_gpus(cluster, lambda gpu: gpu.launched(factor)),
            transport=replace(
                transport,
                message_overhead=transport.message_overhead * factor,
                op_overhead=transport.op_overhead * factor,
                nccl=replace(nccl, overhead=nccl.overhead * factor) if nccl is not None else None,
            ),
        )
    if knob == "latency":
        return _with_links(cluster, lambda links: replace(links, latency=links.latency * factor))
    return _with_links(_with_parts(cluster, knob, factor), lambda links: _with_rate(cluster, links, knob, factor))


def _with_rate(cluster: Cluster, links: Links, knob: str, factor: float) -> Links:
    """The links with the capacity of those that `knob` scales multiplied by `factor`."""
    if knob == "uplink_rate":
        scaled_links = np.arange(len(links)) < cluster.wiring.first_server_link
    else:
        scaled_links = np.array([kind.startswith(_KIND_PREFIXES[knob]) for kind in links.kinds])[links.kind]
    return replace(links, capacity=np.where(scaled_links, links.capacity * factor, links.capacity))


def _with_links(cluster: Cluster, change: Callable[[Links], Links]) -> Cluster:
    built = None if cluster.built is None else change(cluster.built)
    return replace(cluster, links=change(cluster.links), built=built)


def _with_parts(cluster: Cluster, knob: str, factor: float) -> Cluster:
    """The cluster with the rate of the parts of every server that `knob` scales multiplied by `factor`."""

    def change(node: Node) -> Node:
        parts: dict[str, Link | None] = {key: getattr(node, key) for key in _NODE_PARTS.get(knob, ())}
        faster: dict[str, Any] = {key: replace(part, rate=part.rate * factor) for key, part in parts.items() if part}
        return replace(node, **faster)

    return replace(cluster, wiring=cluster.wiring.with_nodes(change))


def _with_gpus(cluster: Cluster, change: Callable[[Gpu], Gpu]) -> Cluster:
    wiring = cluster.wiring.with_nodes(lambda node: replace(node, gpu=change(node.gpu) if node.gpu else None))
    return replace(cluster, gpu=change(cluster.gpu), wiring=wiring)
