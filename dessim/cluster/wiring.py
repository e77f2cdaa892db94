"""Servers of all kinds side by side: which server and NIC a GPU has, and the whole way of a flow.

Servers alike stand in a row, row after row; GPUs and NICs follow each other in the order of servers. Between servers
a flow leaves by its GPU's NIC. On a rail-aware fabric it first moves over NVLink to a GPU on the destination's rail,
as NCCL's PXN does (NVIDIA, "Doubling all2all Performance with NCCL 2.12", 2022); a server that is not on that rail
sends it through the fabric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dessim.cluster.links import FloatArray, IntArray, LinkBuilder
from dessim.cluster.node import NodeBlock, NodeLinks, Vertices, add_links_inside
from dessim.cluster.parts import Node
from dessim.cluster.routing.routes import Segment, path

Across = Callable[[IntArray, IntArray, IntArray], list[Segment]]
"""The way through the fabric of the flows `rows` [m], from NICs [m] to NICs [m]."""


@dataclass(frozen=True, slots=True, eq=False)
class Wiring:
    """The servers of each kind, in the order of nodes. NIC i of the cluster sends by link `nic_up + i` and receives by
    `nic_down + i`; `first` is the first link of a server: those of the fabric come before."""

    kinds: tuple[NodeLinks, ...]
    nic_up: int = field(init=False)
    nic_down: int = field(init=False)
    first: int = field(init=False)
    _first_gpu: IntArray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nic_up", self.kinds[0].nic_up)
        object.__setattr__(self, "nic_down", self.kinds[0].nic_down)
        object.__setattr__(self, "first", min(kind.first for kind in self.kinds))
        object.__setattr__(self, "_first_gpu", np.array([kind.run.gpu for kind in self.kinds]))

    @property
    def nodes(self) -> list[Node]:
        """What is in a server, a kind each."""
        return [kind.node for kind in self.kinds]

    @property
    def n_nodes(self) -> int:
        """Servers of all kinds."""
        return sum(kind.run.count for kind in self.kinds)

    @property
    def n_gpus(self) -> int:
        """GPUs of all servers."""
        return sum(kind.run.count * kind.node.gpus for kind in self.kinds)

    def with_nodes(self, change: Callable[[Node], Node]) -> Wiring:
        """The same links with other words for what is in a server."""
        return Wiring(tuple(replace(k, run=replace(k.run, what=change(k.node))) for k in self.kinds))

    def kind_of(self, gpu: IntArray) -> IntArray:
        """The kind of the server of each GPU."""
        kind: IntArray = np.searchsorted(self._first_gpu, gpu, side="right") - 1
        return kind

    def node_of(self, gpu: IntArray) -> IntArray:
        """The server of each GPU."""
        if len(self.kinds) == 1:
            return gpu // self.kinds[0].node.gpus
        kind, gpus = self.kind_of(gpu), np.array([node.gpus for node in self.nodes])
        node: IntArray = np.array([k.run.node for k in self.kinds])[kind] + (gpu - self._first_gpu[kind]) // gpus[kind]
        return node

    def nic_of(self, gpu: IntArray) -> IntArray:
        """The NIC of each GPU."""
        nic = np.empty(len(gpu), dtype=np.int64)
        for kind, rows in self.by_kind(gpu):
            nic[rows] = kind.nic_of(gpu[rows])
        return nic

    def by_kind(self, gpu: IntArray) -> Iterator[tuple[NodeLinks, IntArray]]:
        """Each kind of server that some of the GPUs are in, with the positions of those."""
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
        return np.repeat(np.arange(self.n_nodes), self._each_node([node.nics for node in self.nodes]))

    def first_nic(self) -> IntArray:
        """The first NIC of each server, [n_nodes]."""
        nics = self._each_node([node.nics for node in self.nodes])
        first: IntArray = np.cumsum(nics) - nics
        return first

    def first_gpu(self) -> IntArray:
        """The first GPU of each server, [n_nodes]."""
        gpus = self._each_node([node.gpus for node in self.nodes])
        first: IntArray = np.cumsum(gpus) - gpus
        return first

    def nic_capacity(self) -> FloatArray:
        """Payload bytes/s that each NIC and the PCIe links behind it can move per direction, [n_nics]."""
        return np.repeat(
            np.array([kind.nic_capacity() for kind in self.kinds]),
            [kind.run.count * kind.node.nics for kind in self.kinds],
        )

    def segments(self, src: IntArray, dst: IntArray, across: Across, rail_aware: bool) -> list[Segment]:
        """The whole way of each flow from GPU `src` to GPU `dst` [n]; `across` gives the part between the NICs."""
        same_node = self.node_of(src) == self.node_of(dst)
        local = np.zeros(len(src), dtype=bool)
        segments = []
        for kind, rows in self.by_kind(src):
            rows = rows[same_node[rows]]
            parts, done = kind.inside(rows, src[rows], dst[rows])
            segments += parts
            local[done] = True
        rows = np.flatnonzero(~local)
        src, dst = src[rows], dst[rows]
        leaves_by = src
        if rail_aware:
            leaves_by, changes = self._on_the_rail(src, dst)
            segments += [replace(part, rows=rows[part.rows]) for part in changes]
        for kind, some in self.by_kind(leaves_by):
            segments.append(path(rows[some], *kind.out(leaves_by[some])))
        beyond = across(rows, self.nic_of(leaves_by), self.nic_of(dst))
        segments += [replace(part, rows=rows[part.rows]) for part in beyond]
        for kind, some in self.by_kind(dst):
            segments.append(path(rows[some], *kind.into(dst[some])))
        return segments

    def _on_the_rail(self, src: IntArray, dst: IntArray) -> tuple[IntArray, list[Segment]]:
        """The GPU that each flow leaves its server by, and the way there."""
        rail, place = np.empty_like(dst), np.empty_like(dst)
        for kind, rows in self.by_kind(dst):
            rail[rows], place[rows] = kind.rail_of(dst[rows]), kind.place_of(dst[rows])
        leaves_by, changes = src.copy(), []
        for kind, rows in self.by_kind(src):
            if kind.nvlink_up >= 0:
                there = rail[rows] < kind.node.nics // kind.node.trays
                rows = rows[there & (kind.rail_of(src[rows]) != rail[rows])]
                leaves_by[rows] = kind.on_rail(src[rows], rail[rows], place[rows])
                changes.append(kind.nvlink(rows, src[rows], leaves_by[rows]))
        return leaves_by, changes

    def _each_node(self, values: Sequence[int]) -> IntArray:
        """A number of each kind for each of its servers, [n_nodes]."""
        return np.repeat(np.array(values, dtype=np.int64), [kind.run.count for kind in self.kinds])


def add_wiring(
    builder: LinkBuilder,
    runs: Sequence[NodeBlock],
    at: Sequence[Vertices],
    leaf_vertex: IntArray,
    switch_latency: float,
) -> Wiring:
    """Links of all servers; NIC i goes to vertex `leaf_vertex[i]`, whose switch adds `switch_latency` [s]."""
    kinds = [add_links_inside(builder, run, vertices) for run, vertices in zip(runs, at, strict=True)]
    blocks = []
    for up in (True, False):
        for run, vertices in zip(runs, at, strict=True):
            nic = np.arange(run.count * run.what.nics)
            ends = vertices.nic + nic, leaf_vertex[run.nic + nic]
            if up:
                blocks.append(builder.add_links("nic_up", run.what.nic, *ends, extra_latency=switch_latency))
            else:
                blocks.append(builder.add_links("nic_down", run.what.nic, *ends[::-1]))
    ups, downs = blocks[: len(runs)], blocks[len(runs) :]
    return Wiring(tuple(replace(k, nic_up=up, nic_down=down) for k, up, down in zip(kinds, ups, downs, strict=True)))
