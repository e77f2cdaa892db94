"""Copies of a cluster with one quantity scaled and everything else equal, for what-if runs.

Links, parts and transport are scaled. Facts about the cluster as built (bisection, oversubscription) do not change.

Twice the NICs are twice as many in every server, each half on a plane of the fabric: what joins NICs to servers and
switches, and the links between switches, carry twice as much; latencies and overheads stay.
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
    "nics": "number of NICs of every server, each set of them on its plane of the fabric",
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

_NODE_PARTS = {
    "nics": ("nic",),
    "nic_rate": ("nic",),
    "nvlink_rate": ("nvlink",),
    "pcie_rate": ("pcie", "pcie_uplink", "socket_link"),
}
"""Fields of `Node` that a rate scales."""
_KIND_PREFIXES = {
    "nics": ("nic_", "pcie_nic_"),
    "nic_rate": ("nic_",),
    "nvlink_rate": ("nvlink_",),
    "pcie_rate": ("pcie_", "socket"),
}
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
    scaled_links = np.zeros(len(links), dtype=bool)
    if knob in ("uplink_rate", "nics"):
        scaled_links |= np.arange(len(links)) < cluster.wiring.first_server_link
    if knob in _KIND_PREFIXES:
        scaled_links |= np.array([kind.startswith(_KIND_PREFIXES[knob]) for kind in links.kinds])[links.kind]
    return replace(links, capacity=np.where(scaled_links, links.capacity * factor, links.capacity))


def _with_links(cluster: Cluster, change: Callable[[Links], Links]) -> Cluster:
    built = None if cluster.built is None else change(cluster.built)
    return replace(cluster, links=change(cluster.links), built=built)


def _with_parts(cluster: Cluster, knob: str, factor: float) -> Cluster:
    """The cluster with the rate of the parts of every server that `knob` scales multiplied by `factor`."""

    def change(node: Node) -> Node:
        parts: dict[str, Link | None] = {key: getattr(node, key) for key in _NODE_PARTS.get(knob, ())}
        faster: dict[str, Any] = {key: replace(part, rate=part.rate * factor) for key, part in parts.items() if part}
        return replace(node, **faster, planes=node.planes * factor if knob == "nics" else node.planes)

    return replace(cluster, wiring=cluster.wiring.with_nodes(change))


def _with_gpus(cluster: Cluster, change: Callable[[Gpu], Gpu]) -> Cluster:
    wiring = cluster.wiring.with_nodes(lambda node: replace(node, gpu=change(node.gpu) if node.gpu else None))
    return replace(cluster, gpu=change(cluster.gpu), wiring=wiring)
