"""Inside servers of one kind: NVLink plane, PCIe, NICs; which of them a flow crosses.

Within a node a flow takes NVLink when there is one; else PCIe peer to peer: by PCIe switches, from one to another
through the CPUs, or without switches by a NIC that both GPUs share, else out of one NIC and in by another. Left out:
host memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dessim.cluster.links import IntArray, LinkBuilder
from dessim.cluster.parts import Node
from dessim.cluster.routing.routes import Segment, path


@dataclass(frozen=True, slots=True)
class NodeBlock:
    """`count` servers alike, in a row: `node`, `gpu` and `nic` are their first ones among those of the cluster."""

    what: Node
    count: int
    node: int = 0
    gpu: int = 0
    nic: int = 0

    def after(self, what: Node, count: int) -> NodeBlock:
        """The servers that come next."""
        node, own = self.node + self.count, self.what
        return NodeBlock(what, count, node, self.gpu + self.count * own.gpus, self.nic + self.count * own.nics)


@dataclass(frozen=True, slots=True)
class NodeLinks:
    """The servers of a run; first link id of each block of theirs, -1 where a block is missing.

    In GPU order nvlink and pcie, in NIC order nic and bus (PCIe switch to NIC), in the order of PCIe switches host
    (to the CPU); from CPU a to CPU b of its node `socket + a * (sockets - 1) + b`, one less where b is beyond a.
    GPUs and NICs are given, and NICs found, as numbers among those of the whole cluster.
    """

    run: NodeBlock
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
        """What is in each of them."""
        return self.run.what

    @property
    def first(self) -> int:
        """The first of all these links."""
        return min(block for block in (self.nvlink_up, self.pcie_up, self.nic_up) if block >= 0)

    def nic_of(self, gpu: IntArray) -> IntArray:
        """NIC of each GPU."""
        run, node = self.run, self.node
        here = gpu - run.gpu
        nic: IntArray = run.nic + (here if node.gpus == node.nics else _of(here, node.gpus, node.nics))
        return nic

    def rail_of(self, gpu: IntArray) -> IntArray:
        """Rail of each GPU: which of its tray's NICs it uses."""
        rail: IntArray = (self.nic_of(gpu) - self.run.nic) % (self.node.nics // self.node.trays)
        return rail

    def place_of(self, gpu: IntArray) -> IntArray:
        """Which of the GPUs of its NIC each GPU is."""
        place: IntArray = (gpu - self.run.gpu) % (self.node.gpus // self.node.nics)
        return place

    def on_rail(self, gpu: IntArray, rail: IntArray, place: IntArray) -> IntArray:
        """The GPU in the tray of each that is on `rail`, and of those that share its NIC the one at `place`."""
        node = self.node
        tray, share = node.gpus // node.trays, node.gpus // node.nics
        found: IntArray = gpu - (gpu - self.run.gpu) % tray + rail * share + place % share
        return found

    def nic_capacity(self) -> float:
        """Payload bytes/s one NIC and the PCIe links behind it can move per direction."""
        if self.node.pcie is None:
            return self.node.nic.capacity
        lanes = 1 if self.node.pcie_switches else self.node.gpus // self.node.nics
        return min(self.node.nic.capacity, self.node.pcie.capacity * lanes)

    def nvlink(self, rows: IntArray, src: IntArray, dst: IntArray) -> Segment:
        """Over the NVSwitch plane."""
        return path(rows, self.nvlink_up + src - self.run.gpu, self.nvlink_down + dst - self.run.gpu)

    def out(self, gpu: IntArray) -> list[IntArray]:
        """The links from each GPU to beyond its NIC, one after the other."""
        nic = self.nic_of(gpu) - self.run.nic
        pcie = [self.pcie_up + gpu - self.run.gpu] if self.pcie_up >= 0 else []
        bus = [self.bus_up + nic] if self.bus_up >= 0 else []
        return [*pcie, *bus, self.nic_up + nic]

    def into(self, gpu: IntArray) -> list[IntArray]:
        """The links from before its NIC to each GPU, one after the other."""
        nic = self.nic_of(gpu) - self.run.nic
        pcie = [self.pcie_down + gpu - self.run.gpu] if self.pcie_down >= 0 else []
        bus = [self.bus_down + nic] if self.bus_down >= 0 else []
        return [self.nic_down + nic, *bus, *pcie]

    def inside(self, rows: IntArray, src: IntArray, dst: IntArray) -> tuple[list[Segment], IntArray]:
        """The way of flows `rows` [m] between GPUs of one server, and which of them have one that needs no fabric."""
        if self.nvlink_up >= 0:
            return [self.nvlink(rows, src, dst)], rows
        if self.bus_up >= 0:
            return self._by_pcie(rows, src - self.run.gpu, dst - self.run.gpu), rows
        if self.pcie_up < 0:
            return [], rows[:0]
        shared = self.nic_of(src) == self.nic_of(dst)
        rows, src, dst = rows[shared], src[shared] - self.run.gpu, dst[shared] - self.run.gpu
        return [path(rows, self.pcie_up + src, self.pcie_down + dst)], rows

    def _by_pcie(self, rows: IntArray, src: IntArray, dst: IntArray) -> list[Segment]:
        """By PCIe switches and CPUs, between GPUs numbered from the first of the run."""
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
    """First ids of the vertices of a run, -1 where there are none; a NIC that is its GPU's own port is the GPU."""

    gpu: int
    nvswitch: int
    nic: int
    pcieswitch: int
    cpu: int


def add_node_layers(builder: LinkBuilder, runs: Sequence[NodeBlock]) -> list[Vertices]:
    """Vertices of all servers; those of the GPUs come first, so that a GPU's number is its vertex."""
    gpus = [_add_layer(builder, run, "gpu", run.what.gpus) for run in runs]
    found = []
    for run, gpu in zip(runs, gpus, strict=True):
        node = run.what
        nvswitch = _add_layer(builder, run, "nvswitch", 1) if node.nvlink else -1
        nic = _add_layer(builder, run, "nic", node.nics) if node.pcie else gpu
        pcieswitch = cpu = -1
        if node.pcie_switches:
            pcieswitch = _add_layer(builder, run, "pcieswitch", node.pcie_switches)
            cpu = _add_layer(builder, run, "cpu", node.sockets)
        found.append(Vertices(gpu, nvswitch, nic, pcieswitch, cpu))
    return found


def _add_layer(builder: LinkBuilder, run: NodeBlock, kind: str, each: int) -> int:
    first_gpu = run.gpu if kind == "gpu" else 0
    return builder.add_layer(kind, run.count * each, each, first_node=run.node, first_gpu=first_gpu)


def add_links_inside(builder: LinkBuilder, run: NodeBlock, at: Vertices) -> NodeLinks:
    """Links inside the servers of a run: all but those of the NICs to their switches."""
    node = run.what
    gpu = np.arange(run.count * node.gpus)
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
            behind = _add_pcie_tree(builder, node, run.count, at)
    return NodeLinks(run, nvlink_up, nvlink_down, pcie_up, pcie_down, **behind)


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
