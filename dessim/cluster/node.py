"""Inside a server: NVLink plane, PCIe, NICs; which of them a flow crosses.

Within a node a flow takes NVLink when there is one; else PCIe peer to peer: by PCIe switches, from one to another
through the CPUs, or without switches by a NIC that both GPUs share, else out of one NIC and in by another. Between
nodes it leaves by its GPU's NIC. On a rail-aware fabric it first moves over NVLink to the GPU on the destination's
rail, as NCCL's PXN does (NVIDIA, "Doubling all2all Performance with NCCL 2.12", 2022). Left out: host memory.
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
    """First link id of each block, -1 where a block is missing.

    In GPU order nvlink and pcie, in NIC order nic and bus (PCIe switch to NIC), in the order of PCIe switches host
    (to the CPU); from CPU a to CPU b of its node `socket + a * (sockets - 1) + b`, one less where b is beyond a.
    """

    node: Node
    nvlink_up: int
    nvlink_down: int
    pcie_up: int
    pcie_down: int
    nic_up: int
    nic_down: int
    bus_up: int = -1
    bus_down: int = -1
    host_up: int = -1
    host_down: int = -1
    socket: int = -1

    @property
    def first(self) -> int:
        """The first of them all; the links of the fabric come before."""
        return min(block for block in (self.nvlink_up, self.pcie_up, self.nic_up) if block >= 0)

    def nic_of(self, gpu: IntArray) -> IntArray:
        """Global NIC index of each GPU."""
        return gpu if self.node.gpus == self.node.nics else _of(gpu, self.node.gpus, self.node.nics)

    def nic_capacity(self) -> float:
        """Payload bytes/s one NIC and the PCIe links behind it can move per direction."""
        if self.node.pcie is None:
            return self.node.nic.capacity
        lanes = 1 if self.node.pcie_switches else self.node.gpus // self.node.nics
        return min(self.node.nic.capacity, self.node.pcie.capacity * lanes)

    def out(self, gpu: IntArray) -> list[IntArray]:
        """The links from each GPU to beyond its NIC, one after the other."""
        pcie = [self.pcie_up + gpu] if self.pcie_up >= 0 else []
        bus = [self.bus_up + self.nic_of(gpu)] if self.bus_up >= 0 else []
        return [*pcie, *bus, self.nic_up + self.nic_of(gpu)]

    def into(self, gpu: IntArray) -> list[IntArray]:
        """The links from before its NIC to each GPU, one after the other."""
        pcie = [self.pcie_down + gpu] if self.pcie_down >= 0 else []
        bus = [self.bus_down + self.nic_of(gpu)] if self.bus_down >= 0 else []
        return [self.nic_down + self.nic_of(gpu), *bus, *pcie]

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
        elif self.bus_up >= 0:
            local = same_node
            segments += self._by_pcie(everyone[local], src[local], dst[local])
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
        segments.append(path(rows, *self.out(leaves_by)))
        segments += [replace(part, rows=rows[part.rows]) for part in across(rows, nic_src, nic_dst)]
        segments.append(path(rows, *self.into(dst)))
        return segments

    def _by_pcie(self, rows: IntArray, src: IntArray, dst: IntArray) -> list[Segment]:
        """Between GPUs of a node, by its PCIe switches and CPUs."""
        node = self.node
        a, b = (_of(gpu, node.gpus, node.pcie_switches) for gpu in (src, dst))
        cpu_a, cpu_b = (_of(switch, node.pcie_switches, node.sockets) for switch in (a, b))
        up, apart, far = path(rows, self.pcie_up + src), a != b, cpu_a != cpu_b
        own, other = cpu_a % node.sockets, cpu_b % node.sockets
        hop = self.socket + cpu_a * (node.sockets - 1) + other - (other > own)
        return [
            up,
            path(rows[apart], self.host_up + a[apart]),
            path(rows[far], hop[far]),
            path(rows[apart], self.host_down + b[apart]),
            path(rows, self.pcie_down + dst),
        ]


def _of(member: IntArray, members: int, parts: int) -> IntArray:
    """Of which of a node's `parts` each of its `members` is, counted through all nodes."""
    part: IntArray = member // members * parts + member % members * parts // members
    return part


@dataclass(frozen=True, slots=True)
class Vertices:
    """First ids of the vertices of all nodes, -1 where there are none; a NIC that is its GPU's own port is the GPU."""

    gpu: int
    nvswitch: int
    nic: int
    pcieswitch: int
    cpu: int


def add_node_layers(builder: LinkBuilder, node: Node, n_nodes: int) -> Vertices:
    """Vertices of all nodes."""
    gpu = builder.add_layer("gpu", n_nodes * node.gpus, node.gpus)
    nvswitch = builder.add_layer("nvswitch", n_nodes, 1) if node.nvlink else -1
    nic = builder.add_layer("nic", n_nodes * node.nics, node.nics) if node.pcie else gpu
    pcieswitch = cpu = -1
    if node.pcie_switches:
        pcieswitch = builder.add_layer("pcieswitch", n_nodes * node.pcie_switches, node.pcie_switches)
        cpu = builder.add_layer("cpu", n_nodes * node.sockets, node.sockets)
    return Vertices(gpu, nvswitch, nic, pcieswitch, cpu)


def add_node_links(
    builder: LinkBuilder,
    node: Node,
    n_nodes: int,
    at: Vertices,
    leaf_vertex: IntArray,
    switch_latency: float,
) -> NodeLinks:
    """Links of all nodes; NIC i goes to vertex `leaf_vertex[i]`, whose switch adds `switch_latency` [s]."""
    gpu = np.arange(n_nodes * node.gpus)
    nic = np.arange(n_nodes * node.nics)
    nvlink_up = nvlink_down = pcie_up = pcie_down = -1
    if node.nvlink:
        plane = at.nvswitch + gpu // node.gpus
        extra = node.nvswitch.latency if node.nvswitch else 0.0
        nvlink_up = builder.add_links("nvlink_up", node.nvlink, at.gpu + gpu, plane, extra_latency=extra)
        nvlink_down = builder.add_links("nvlink_down", node.nvlink, plane, at.gpu + gpu)
    behind: dict[str, int] = {}
    if node.pcie:
        mine = at.nic + _of(gpu, node.gpus, node.nics)
        if node.pcie_switches:
            mine = at.pcieswitch + _of(gpu, node.gpus, node.pcie_switches)
        pcie_up = builder.add_links("pcie_up", node.pcie, at.gpu + gpu, mine)
        pcie_down = builder.add_links("pcie_down", node.pcie, mine, at.gpu + gpu)
        if node.pcie_switches:
            behind = _add_pcie_tree(builder, node, n_nodes, at)
    nic_up = builder.add_links("nic_up", node.nic, at.nic + nic, leaf_vertex, extra_latency=switch_latency)
    nic_down = builder.add_links("nic_down", node.nic, leaf_vertex, at.nic + nic)
    return NodeLinks(node, nvlink_up, nvlink_down, pcie_up, pcie_down, nic_up, nic_down, **behind)


def _add_pcie_tree(builder: LinkBuilder, node: Node, n_nodes: int, at: Vertices) -> dict[str, int]:
    """Links from PCIe switches to NICs and to CPUs, and between CPUs: first id of each block by its name."""
    assert node.pcie is not None and node.pcie_uplink is not None
    nic, switch = np.arange(n_nodes * node.nics), np.arange(n_nodes * node.pcie_switches)
    below = at.pcieswitch + _of(nic, node.nics, node.pcie_switches)
    cpu = at.cpu + _of(switch, node.pcie_switches, node.sockets)
    blocks = {
        "bus_up": builder.add_links("pcie_nic_up", node.pcie, below, at.nic + nic),
        "bus_down": builder.add_links("pcie_nic_down", node.pcie, at.nic + nic, below),
        "host_up": builder.add_links("pcie_host_up", node.pcie_uplink, at.pcieswitch + switch, cpu),
        "host_down": builder.add_links("pcie_host_down", node.pcie_uplink, cpu, at.pcieswitch + switch),
    }
    if node.socket_link is not None:
        a, b = np.divmod(np.arange(n_nodes * node.sockets * (node.sockets - 1)), node.sockets - 1)
        other = a // node.sockets * node.sockets + b + (b >= a % node.sockets)
        blocks["socket"] = builder.add_links("socket", node.socket_link, at.cpu + a, at.cpu + other)
    return blocks
