"""All servers of a cluster: which server and NIC each GPU has, and the complete route of a flow.

Servers of a kind form a block with consecutive numbers, and GPUs and NICs are numbered in the order of servers. A flow
between servers leaves through the NIC of its GPU. On a rail-aware fabric it first moves over NVLink to a GPU on the
destination's rail, as NCCL's PXN does (NVIDIA, "Doubling all2all Performance with NCCL 2.12", 2022); a server that has
no NIC on that rail sends it through the fabric instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.node import NodeBlock, NodeLinks, Vertices, add_links_inside
from dessim.cluster.parts import Node
from dessim.cluster.routing.routes import Segment, single_route

RouteAcross = Callable[[IntArray, IntArray, IntArray], list[Segment]]
"""Routes flows `rows` [m] through the fabric, from NICs [m] to NICs [m]. Rows of its result are positions in `rows`."""


@dataclass(frozen=True, slots=True, eq=False)
class Wiring:
    """The servers of each kind, in the order of nodes.

    NIC i of the cluster sends through link `nic_up + i` and receives through `nic_down + i`. Links below
    `first_server_link` belong to the fabric, all others to servers.
    """

    kinds: tuple[NodeLinks, ...]
    nic_up: int = field(init=False)
    nic_down: int = field(init=False)
    first_server_link: int = field(init=False)
    _first_gpu_of_kind: IntArray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nic_up", self.kinds[0].nic_up)
        object.__setattr__(self, "nic_down", self.kinds[0].nic_down)
        object.__setattr__(self, "first_server_link", min(kind.first_link for kind in self.kinds))
        object.__setattr__(self, "_first_gpu_of_kind", np.array([kind.block.first_gpu for kind in self.kinds]))

    @property
    def nodes(self) -> list[Node]:
        """The description of each kind of server."""
        return [kind.node for kind in self.kinds]

    @property
    def n_nodes(self) -> int:
        """Number of servers of all kinds."""
        return sum(kind.block.count for kind in self.kinds)

    @property
    def n_gpus(self) -> int:
        """Number of GPUs of all servers."""
        return sum(kind.block.count * kind.node.gpus for kind in self.kinds)

    def with_nodes(self, change: Callable[[Node], Node]) -> Wiring:
        """The same links with the description of each kind of server replaced by `change` of it."""
        return Wiring(tuple(replace(k, block=replace(k.block, node=change(k.node))) for k in self.kinds))

    def kind_of(self, gpu: IntArray) -> IntArray:
        """The kind of the server of each GPU, as an index into `kinds`."""
        kind: IntArray = np.searchsorted(self._first_gpu_of_kind, gpu, side="right") - 1
        return kind

    def node_of(self, gpu: IntArray) -> IntArray:
        """The server of each GPU."""
        if len(self.kinds) == 1:
            return gpu // self.kinds[0].node.gpus
        kind = self.kind_of(gpu)
        gpus_per_node = np.array([node.gpus for node in self.nodes])[kind]
        first_node = np.array([k.block.first_node for k in self.kinds])[kind]
        node: IntArray = first_node + (gpu - self._first_gpu_of_kind[kind]) // gpus_per_node
        return node

    def nic_of(self, gpu: IntArray) -> IntArray:
        """The NIC of each GPU."""
        nic = np.empty(len(gpu), dtype=np.int64)
        for kind, rows in self.by_kind(gpu):
            nic[rows] = kind.nic_of(gpu[rows])
        return nic

    def by_kind(self, gpu: IntArray) -> Iterator[tuple[NodeLinks, IntArray]]:
        """Yield each kind of server that holds some of the GPUs, with the positions of these GPUs in `gpu`."""
        if len(self.kinds) == 1:
            yield self.kinds[0], np.arange(len(gpu))
            return
        kind_of = self.kind_of(gpu)
        for number, kind in enumerate(self.kinds):
            rows = np.flatnonzero(kind_of == number)
            if len(rows):
                yield kind, rows

    def node_of_nic(self) -> IntArray:
        """The server of each NIC of the cluster, [n_nics]."""
        return np.repeat(np.arange(self.n_nodes), self._per_node([node.nics for node in self.nodes]))

    def first_nic(self) -> IntArray:
        """The first NIC of each server, [n_nodes]."""
        nics = self._per_node([node.nics for node in self.nodes])
        first: IntArray = np.cumsum(nics) - nics
        return first

    def first_gpu(self) -> IntArray:
        """The first GPU of each server, [n_nodes]."""
        gpus = self._per_node([node.gpus for node in self.nodes])
        first: IntArray = np.cumsum(gpus) - gpus
        return first

    def nic_capacity(self) -> FloatArray:
        """Payload bytes/s that each NIC and the PCIe links behind it can move in each direction, [n_nics]."""
        return np.repeat(
            np.array([kind.nic_capacity() for kind in self.kinds]),
            [kind.block.count * kind.node.nics for kind in self.kinds],
        )

    def segments(self, src: IntArray, dst: IntArray, across: RouteAcross, rail_aware: bool) -> list[Segment]:
        """The complete route of each flow from GPU `src` to GPU `dst` [n]; `across` routes the part between NICs."""
        same_node = self.node_of(src) == self.node_of(dst)
        routed_inside = np.zeros(len(src), dtype=bool)
        segments = []
        for kind, rows in self.by_kind(src):
            local_rows = rows[same_node[rows]]
            inside, done = kind.inside(local_rows, src[local_rows], dst[local_rows])
            segments += inside
            routed_inside[done] = True
        rows = np.flatnonzero(~routed_inside)
        src = src[rows]
        dst = dst[rows]
        exit_gpu = src
        if rail_aware:
            exit_gpu, rail_changes = self._change_rail(src, dst)
            segments += [replace(segment, rows=rows[segment.rows]) for segment in rail_changes]
        for kind, of_kind in self.by_kind(exit_gpu):
            segments.append(single_route(rows[of_kind], *kind.out(exit_gpu[of_kind])))
        between_nics = across(rows, self.nic_of(exit_gpu), self.nic_of(dst))
        segments += [replace(segment, rows=rows[segment.rows]) for segment in between_nics]
        for kind, of_kind in self.by_kind(dst):
            segments.append(single_route(rows[of_kind], *kind.into(dst[of_kind])))
        return segments

    def _change_rail(self, src: IntArray, dst: IntArray) -> tuple[IntArray, list[Segment]]:
        """The GPU through which each flow leaves its server, and the route to that GPU."""
        rail = np.empty_like(dst)
        place = np.empty_like(dst)
        for kind, rows in self.by_kind(dst):
            rail[rows] = kind.rail_of(dst[rows])
            place[rows] = kind.place_of(dst[rows])
        exit_gpu = src.copy()
        segments = []
        for kind, rows in self.by_kind(src):
            if kind.nvlink_up >= 0:
                has_rail = rail[rows] < kind.node.nics // kind.node.trays
                moving = rows[has_rail & (kind.rail_of(src[rows]) != rail[rows])]
                exit_gpu[moving] = kind.on_rail(src[moving], rail[moving], place[moving])
                segments.append(kind.nvlink(moving, src[moving], exit_gpu[moving]))
        return exit_gpu, segments

    def _per_node(self, values: Sequence[int]) -> IntArray:
        """One value of each kind, repeated for each of its servers, [n_nodes]."""
        return np.repeat(np.array(values, dtype=np.int64), [kind.block.count for kind in self.kinds])


def add_wiring(
    builder: LinkBuilder,
    blocks: Sequence[NodeBlock],
    vertices: Sequence[Vertices],
    leaf_vertex: IntArray,
    switch_latency: float,
) -> Wiring:
    """Add the links of all servers. NIC i is attached to vertex `leaf_vertex[i]`, whose switch adds `switch_latency`.

    `vertices` are those of each block; the latency is in seconds.
    """
    inside = [add_links_inside(builder, block, at) for block, at in zip(blocks, vertices, strict=True)]
    # The uplinks of all servers precede the downlinks, so that NIC i of the cluster has links nic_up + i, nic_down + i.
    nic_up = []
    nic_down = []
    for block, at in zip(blocks, vertices, strict=True):
        nic = np.arange(block.count * block.node.nics)
        leaf = leaf_vertex[block.first_nic + nic]
        nic_up.append(builder.add_links("nic_up", block.node.nic, at.nic + nic, leaf, extra_latency=switch_latency))
    for block, at in zip(blocks, vertices, strict=True):
        nic = np.arange(block.count * block.node.nics)
        leaf = leaf_vertex[block.first_nic + nic]
        nic_down.append(builder.add_links("nic_down", block.node.nic, leaf, at.nic + nic))
    return Wiring(
        tuple(
            replace(links, nic_up=up, nic_down=down) for links, up, down in zip(inside, nic_up, nic_down, strict=True)
        )
    )
