"""Servers of one kind: their NVLink plane, PCIe and NICs, and which of these links a flow crosses.

Within a node a flow takes NVLink if there is any. Otherwise it takes PCIe peer to peer: through PCIe switches, and
through the CPUs from one to another; without PCIe switches through the NIC that both GPUs share. Two GPUs without such
a connection reach each other through the fabric, out of one NIC and in through another. Left out: host memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dessim.cluster.links import IntArray, LinkBuilder
from dessim.cluster.parts import Node
from dessim.cluster.routing.routes import Segment, single_route


@dataclass(frozen=True, slots=True)
class NodeBlock:
    """`count` identical servers with consecutive numbers; the `first_*` are their first numbers in the cluster."""

    node: Node
    count: int
    first_node: int = 0
    first_gpu: int = 0
    first_nic: int = 0

    def followed_by(self, node: Node, count: int) -> NodeBlock:
        """The block of `count` servers that comes after this one."""
        return NodeBlock(
            node,
            count,
            self.first_node + self.count,
            self.first_gpu + self.count * self.node.gpus,
            self.first_nic + self.count * self.node.nics,
        )


@dataclass(frozen=True, slots=True)
class NodeLinks:
    """The links inside a block of identical servers: the first id of each block of links, -1 where there is none.

    `nvlink_*` and `pcie_*` are in GPU order; `nic_*` and `bus_*` (between PCIe switch and NIC) are in NIC order;
    `host_*` (between PCIe switch and CPU) are in the order of PCIe switches. The link from CPU a to CPU b of the same
    node is `socket + a * (sockets - 1) + b`, minus one where b comes after a. Methods take and return the numbers of
    GPUs and NICs in the whole cluster.
    """

    block: NodeBlock
    nvlink_up: int
    nvlink_down: int
    pcie_up: int
    pcie_down: int
    nic_up: int = -1
    nic_down: int = -1
    bus_up: int = -1
    bus_down: int = -1
    host_up: int = -1
    host_down: int = -1
    socket: int = -1

    @property
    def node(self) -> Node:
        """The description of each of these servers."""
        return self.block.node

    @property
    def first_link(self) -> int:
        """The smallest id among all these links."""
        return min(block for block in (self.nvlink_up, self.pcie_up, self.nic_up) if block >= 0)

    def nic_of(self, gpu: IntArray) -> IntArray:
        """The NIC of each GPU."""
        node = self.node
        local = gpu - self.block.first_gpu
        if node.gpus != node.nics:
            local = _share_index(local, node.gpus, node.nics)
        nic: IntArray = self.block.first_nic + local
        return nic

    def rail_of(self, gpu: IntArray) -> IntArray:
        """The rail of each GPU: the place of its NIC among those of its tray."""
        rail: IntArray = (self.nic_of(gpu) - self.block.first_nic) % (self.node.nics // self.node.trays)
        return rail

    def place_of(self, gpu: IntArray) -> IntArray:
        """The place of each GPU among those that share its NIC."""
        place: IntArray = (gpu - self.block.first_gpu) % (self.node.gpus // self.node.nics)
        return place

    def on_rail(self, gpu: IntArray, rail: IntArray, place: IntArray) -> IntArray:
        """The GPU on `rail` in the tray of each GPU; where several share the rail's NIC, the one at `place`."""
        node = self.node
        gpus_per_tray = node.gpus // node.trays
        gpus_per_nic = node.gpus // node.nics
        tray_start = gpu - (gpu - self.block.first_gpu) % gpus_per_tray
        on_rail: IntArray = tray_start + rail * gpus_per_nic + place % gpus_per_nic
        return on_rail

    def nic_capacity(self) -> float:
        """Payload bytes/s that one NIC and the PCIe links behind it can move in each direction."""
        if self.node.pcie is None:
            return self.node.nic.capacity
        # With PCIe switches a link joins each NIC to its switch; without them each of its GPUs has one.
        pcie_links = self.node.planes if self.node.pcie_switches else self.node.gpus // self.node.nics
        return min(self.node.nic.capacity, self.node.pcie.capacity * pcie_links)

    def nvlink(self, rows: IntArray, src: IntArray, dst: IntArray) -> Segment:
        """The route of flows `rows` over the NVSwitch plane."""
        first_gpu = self.block.first_gpu
        return single_route(rows, self.nvlink_up + src - first_gpu, self.nvlink_down + dst - first_gpu)

    def out(self, gpu: IntArray) -> list[IntArray]:
        """The links from each GPU to the switch of its NIC, hop by hop."""
        nic = self.nic_of(gpu) - self.block.first_nic
        pcie = [self.pcie_up + gpu - self.block.first_gpu] if self.pcie_up >= 0 else []
        bus = [self.bus_up + nic] if self.bus_up >= 0 else []
        return [*pcie, *bus, self.nic_up + nic]

    def into(self, gpu: IntArray) -> list[IntArray]:
        """The links from the switch of its NIC to each GPU, hop by hop."""
        nic = self.nic_of(gpu) - self.block.first_nic
        pcie = [self.pcie_down + gpu - self.block.first_gpu] if self.pcie_down >= 0 else []
        bus = [self.bus_down + nic] if self.bus_down >= 0 else []
        return [self.nic_down + nic, *bus, *pcie]

    def inside(self, rows: IntArray, src: IntArray, dst: IntArray) -> tuple[list[Segment], IntArray]:
        """Route flows `rows` [m] between GPUs of one server; return also the rows that this routes completely.

        The others have no connection inside the server and need the fabric.
        """
        if self.nvlink_up >= 0:
            return [self.nvlink(rows, src, dst)], rows
        first_gpu = self.block.first_gpu
        if self.bus_up >= 0:
            return self._through_pcie_switches(rows, src - first_gpu, dst - first_gpu), rows
        if self.pcie_up < 0:
            return [], rows[:0]
        shared = self.nic_of(src) == self.nic_of(dst)
        rows = rows[shared]
        up = self.pcie_up + src[shared] - first_gpu
        down = self.pcie_down + dst[shared] - first_gpu
        return [single_route(rows, up, down)], rows

    def _through_pcie_switches(self, rows: IntArray, src: IntArray, dst: IntArray) -> list[Segment]:
        """Routes through PCIe switches and CPUs, between GPUs numbered from the first of the block."""
        node = self.node
        switch_a = _share_index(src, node.gpus, node.pcie_switches)
        switch_b = _share_index(dst, node.gpus, node.pcie_switches)
        cpu_a = _share_index(switch_a, node.pcie_switches, node.sockets)
        cpu_b = _share_index(switch_b, node.pcie_switches, node.sockets)
        other_switch = switch_a != switch_b
        other_cpu = cpu_a != cpu_b
        local_a = cpu_a % node.sockets
        local_b = cpu_b % node.sockets
        socket_link = self.socket + cpu_a * (node.sockets - 1) + local_b - (local_b > local_a)
        return [
            single_route(rows, self.pcie_up + src),
            single_route(rows[other_switch], self.host_up + switch_a[other_switch]),
            single_route(rows[other_cpu], socket_link[other_cpu]),
            single_route(rows[other_switch], self.host_down + switch_b[other_switch]),
            single_route(rows, self.pcie_down + dst),
        ]


def _share_index(member: IntArray, members: int, shares: int) -> IntArray:
    """The share of each member when the `members` of every node fall into `shares` equal runs.

    Both are numbered through all nodes.
    """
    share: IntArray = member // members * shares + member % members * shares // members
    return share


@dataclass(frozen=True, slots=True)
class Vertices:
    """First vertex ids of a block of servers, -1 where there is no such vertex.

    Without PCIe the NIC is the GPU's own port, and its vertex is that of the GPU.
    """

    gpu: int
    nvswitch: int
    nic: int
    pcieswitch: int
    cpu: int


def add_node_layers(builder: LinkBuilder, blocks: Sequence[NodeBlock]) -> list[Vertices]:
    """Add the vertices of all servers. Those of GPUs come first, so that the number of a GPU is its vertex id."""
    first_gpus = [_add_layer(builder, block, "gpu", block.node.gpus) for block in blocks]
    vertices = []
    for block, gpu in zip(blocks, first_gpus, strict=True):
        node = block.node
        nvswitch = _add_layer(builder, block, "nvswitch", 1) if node.nvlink else -1
        nic = _add_layer(builder, block, "nic", node.nics) if node.pcie else gpu
        pcieswitch = -1
        cpu = -1
        if node.pcie_switches:
            pcieswitch = _add_layer(builder, block, "pcieswitch", node.pcie_switches)
            cpu = _add_layer(builder, block, "cpu", node.sockets)
        vertices.append(Vertices(gpu, nvswitch, nic, pcieswitch, cpu))
    return vertices


def _add_layer(builder: LinkBuilder, block: NodeBlock, kind: str, per_node: int) -> int:
    first_gpu = block.first_gpu if kind == "gpu" else 0
    return builder.add_layer(kind, block.count * per_node, per_node, first_node=block.first_node, first_gpu=first_gpu)


def add_links_inside(builder: LinkBuilder, block: NodeBlock, vertices: Vertices) -> NodeLinks:
    """Add the links inside the servers of a block: all except those between NICs and their switches."""
    node = block.node
    gpu = np.arange(block.count * node.gpus)
    nvlink_up = -1
    nvlink_down = -1
    pcie_up = -1
    pcie_down = -1
    if node.nvlink:
        plane = vertices.nvswitch + gpu // node.gpus
        extra = node.nvswitch.latency if node.nvswitch else 0.0
        nvlink_up = builder.add_links("nvlink_up", node.nvlink, vertices.gpu + gpu, plane, extra_latency=extra)
        nvlink_down = builder.add_links("nvlink_down", node.nvlink, plane, vertices.gpu + gpu)
    tree_links: dict[str, int] = {}
    if node.pcie:
        if node.pcie_switches:
            parent = vertices.pcieswitch + _share_index(gpu, node.gpus, node.pcie_switches)
        else:
            parent = vertices.nic + _share_index(gpu, node.gpus, node.nics)
        pcie_up = builder.add_links("pcie_up", node.pcie, vertices.gpu + gpu, parent)
        pcie_down = builder.add_links("pcie_down", node.pcie, parent, vertices.gpu + gpu)
        if node.pcie_switches:
            tree_links = _add_pcie_tree(builder, node, block.count, vertices)
    return NodeLinks(block, nvlink_up, nvlink_down, pcie_up, pcie_down, **tree_links)


def _add_pcie_tree(builder: LinkBuilder, node: Node, n_nodes: int, vertices: Vertices) -> dict[str, int]:
    """Add links from PCIe switches to NICs and CPUs, and between CPUs; return the first id of each block by name."""
    assert node.pcie is not None and node.pcie_uplink is not None
    nic = np.arange(n_nodes * node.nics)
    switch = np.arange(n_nodes * node.pcie_switches)
    nic_vertex = vertices.nic + nic
    switch_of_nic = vertices.pcieswitch + _share_index(nic, node.nics, node.pcie_switches)
    switch_vertex = vertices.pcieswitch + switch
    cpu_of_switch = vertices.cpu + _share_index(switch, node.pcie_switches, node.sockets)
    blocks = {
        "bus_up": builder.add_links("pcie_nic_up", node.pcie, switch_of_nic, nic_vertex),
        "bus_down": builder.add_links("pcie_nic_down", node.pcie, nic_vertex, switch_of_nic),
        "host_up": builder.add_links("pcie_host_up", node.pcie_uplink, switch_vertex, cpu_of_switch),
        "host_down": builder.add_links("pcie_host_down", node.pcie_uplink, cpu_of_switch, switch_vertex),
    }
    if node.socket_link is not None:
        a, b = np.divmod(np.arange(n_nodes * node.sockets * (node.sockets - 1)), node.sockets - 1)
        other = a // node.sockets * node.sockets + b + (b >= a % node.sockets)
        blocks["socket"] = builder.add_links("socket", node.socket_link, vertices.cpu + a, vertices.cpu + other)
    return blocks
