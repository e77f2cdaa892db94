"""Inside a server: NVLink plane, PCIe, NICs; which of them a flow crosses.

Within a node a flow takes NVLink when there is one; else it turns round at a NIC both GPUs share (PCIe peer to peer),
else it goes out of one NIC and in by another. Between nodes it leaves by its GPU's NIC. On a rail-aware fabric it first
moves over NVLink to the GPU on the destination's rail, as NCCL's PXN does (NVIDIA, "Doubling all2all Performance with
NCCL 2.12", 2022). Left out: NUMA sides, host memory, PCIe switches shared by several GPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dessim.cluster.links import IntArray, LinkBuilder
from dessim.cluster.parts import Node
from dessim.cluster.routing import Segment, path

Across = Callable[[IntArray, IntArray, IntArray], list[Segment]]
"""The way through the fabric of the flows `rows` [m], from NICs [m] to NICs [m]."""


@dataclass(frozen=True, slots=True)
class NodeLinks:
    """First link id of each block, in GPU order (nvlink, pcie) or NIC order (nic); -1 where a block is missing."""

    node: Node
    nvlink_up: int
    nvlink_down: int
    pcie_up: int
    pcie_down: int
    nic_up: int
    nic_down: int

    @property
    def first(self) -> int:
        """The first of them all; the links of the fabric come before."""
        return min(block for block in (self.nvlink_up, self.pcie_up, self.nic_up) if block >= 0)

    def nic_of(self, gpu: IntArray) -> IntArray:
        """Global NIC index of each GPU."""
        g, nics = self.node.gpus, self.node.nics
        if g == nics:
            return gpu
        return gpu // g * nics + gpu % g * nics // g

    def nic_capacity(self) -> float:
        """Payload bytes/s one NIC and the PCIe links behind it can move per direction."""
        behind = self.node.pcie.capacity * (self.node.gpus // self.node.nics) if self.node.pcie else np.inf
        return float(min(self.node.nic.capacity, behind))

    def segments(self, src: IntArray, dst: IntArray, across: Across, rail_aware: bool) -> list[Segment]:
        """The whole way of each flow from GPU `src` to GPU `dst` [n]; `across` gives the part between the NICs."""
        g, nics = self.node.gpus, self.node.nics
        everyone = np.arange(len(src))
        same_node = src // g == dst // g
        local = np.zeros(len(src), dtype=bool)
        segments = []
        if self.nvlink_up >= 0:
            local = same_node
            rows = everyone[local]
            segments.append(path(rows, self.nvlink_up + src[rows], self.nvlink_down + dst[rows]))
        elif self.pcie_up >= 0:
            local = same_node & (self.nic_of(src) == self.nic_of(dst))
            rows = everyone[local]
            segments.append(path(rows, self.pcie_up + src[rows], self.pcie_down + dst[rows]))

        rows = everyone[~local]
        src, dst = src[rows], dst[rows]
        leaves_by = src
        if rail_aware and self.nvlink_up >= 0:
            rails, tray = nics // self.node.trays, g // self.node.trays
            change = self.nic_of(src) % rails != self.nic_of(dst) % rails
            leaves_by = np.where(change, src // tray * tray + dst % tray, src)
            up, down = self.nvlink_up + src[change], self.nvlink_down + leaves_by[change]
            segments.append(path(rows[change], up, down))

        nic_src, nic_dst = self.nic_of(leaves_by), self.nic_of(dst)
        if self.pcie_up >= 0:
            segments.append(path(rows, self.pcie_up + leaves_by, self.nic_up + nic_src))
        else:
            segments.append(path(rows, self.nic_up + nic_src))
        segments += [replace(part, rows=rows[part.rows]) for part in across(rows, nic_src, nic_dst)]
        if self.pcie_up >= 0:
            segments.append(path(rows, self.nic_down + nic_dst, self.pcie_down + dst))
        else:
            segments.append(path(rows, self.nic_down + nic_dst))
        return segments


def add_node_layers(builder: LinkBuilder, node: Node, n_nodes: int) -> tuple[int, int, int]:
    """Vertices of all nodes; first ids of GPUs, NVSwitches (-1: none) and the ends of the NIC links.

    Without PCIe a NIC is its GPU's own port, so the NIC link starts at the GPU itself.
    """
    gpu = builder.add_layer("gpu", n_nodes * node.gpus, node.gpus)
    nvswitch = builder.add_layer("nvswitch", n_nodes, 1) if node.nvlink else -1
    nic = builder.add_layer("nic", n_nodes * node.nics, node.nics) if node.pcie else gpu
    return gpu, nvswitch, nic


def add_node_links(
    builder: LinkBuilder,
    node: Node,
    n_nodes: int,
    vertices: tuple[int, int, int],
    leaf_vertex: IntArray,
    switch_latency: float,
) -> NodeLinks:
    """Links of all nodes; NIC i goes to vertex `leaf_vertex[i]`, whose switch adds `switch_latency` [s]."""
    gpu0, nvswitch0, nic0 = vertices
    gpu = np.arange(n_nodes * node.gpus)
    nic = np.arange(n_nodes * node.nics)
    nvlink_up = nvlink_down = pcie_up = pcie_down = -1
    if node.nvlink:
        plane = nvswitch0 + gpu // node.gpus
        extra = node.nvswitch.latency if node.nvswitch else 0.0
        nvlink_up = builder.add_links("nvlink_up", node.nvlink, gpu0 + gpu, plane, extra_latency=extra)
        nvlink_down = builder.add_links("nvlink_down", node.nvlink, plane, gpu0 + gpu)
    if node.pcie:
        mine = nic0 + gpu // node.gpus * node.nics + gpu % node.gpus * node.nics // node.gpus
        pcie_up = builder.add_links("pcie_up", node.pcie, gpu0 + gpu, mine)
        pcie_down = builder.add_links("pcie_down", node.pcie, mine, gpu0 + gpu)
    nic_up = builder.add_links("nic_up", node.nic, nic0 + nic, leaf_vertex, extra_latency=switch_latency)
    nic_down = builder.add_links("nic_down", node.nic, leaf_vertex, nic0 + nic)
    return NodeLinks(node, nvlink_up, nvlink_down, pcie_up, pcie_down, nic_up, nic_down)
