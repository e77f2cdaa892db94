"""Directed links as arrays, and the vertices they join.

A cluster of 65,536 GPUs has a few hundred thousand links, so links are columns of a table rather than objects. They are
added in blocks: a block holds all links of one kind, such as all `nic_up`, and member i of a block is link
`first + i`. This numbering lets routes be computed with array arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dessim.cluster.parts import Link

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Vertices `first .. first + count - 1`, all of one kind.

    Each node owns `per_node` of them, starting with node `first_node`; 0 means that they belong to no node. GPUs are
    numbered from `first_gpu`. `names` [count] is set where the topology file names the vertices.
    """

    kind: str
    first: int
    count: int
    per_node: int = 0
    names: tuple[str, ...] = ()
    first_node: int = 0
    first_gpu: int = 0

    def nodes(self) -> IntArray:
        """The node of each vertex, -1 where it belongs to none, [count]."""
        if not self.per_node:
            return np.full(self.count, -1)
        return self.first_node + np.arange(self.count) // self.per_node

    def name(self, index: int) -> str:
        """The name of the vertex at `index`, such as `gpu5`, `node0/nvswitch`, `node3/nic1` or `leaf2`."""
        if self.names:
            return self.names[index]
        if self.kind == "gpu" or not self.per_node:
            return f"{self.kind}{self.first_gpu + index}"
        # A node has one NVSwitch plane at most, so its name carries no number.
        number = str(index % self.per_node) if self.kind != "nvswitch" else ""
        return f"node{self.first_node + index // self.per_node}/{self.kind}{number}"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Links:
    """All directed links of a cluster, one array element each.

    `capacity` [L] is in payload bytes/s and `latency` [L] in seconds; `kind` [L] is an index into `kinds`; `src` and
    `dst` [L] are vertex ids, which `layers` name. `uniform_capacity` and `uniform_latency` say that all links of a kind
    have the same; `any_down` says that some link is down, which means that it has no capacity.
    """

    capacity: FloatArray
    latency: FloatArray
    kind: NDArray[np.int8]
    kinds: tuple[str, ...]
    src: IntArray
    dst: IntArray
    layers: tuple[Layer, ...]
    uniform_capacity: bool = field(init=False)
    uniform_latency: bool = field(init=False)
    any_down: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "uniform_capacity", self._uniform_within_kinds(self.capacity))
        object.__setattr__(self, "uniform_latency", self._uniform_within_kinds(self.latency))
        object.__setattr__(self, "any_down", bool((self.capacity == 0).any()))

    def _uniform_within_kinds(self, column: FloatArray) -> bool:
        by_kind = [column[self.kind == number] for number in range(len(self.kinds))]
        return all(bool((values == values[0]).all()) for values in by_kind if len(values))

    def __len__(self) -> int:
        return len(self.capacity)

    @property
    def n_vertices(self) -> int:
        """Vertices of all layers."""
        return sum(layer.count for layer in self.layers)

    def vertex_name(self, vertex: int) -> str:
        """The name of vertex id `vertex`."""
        layer = self.layer_of(vertex)
        return layer.name(vertex - layer.first)

    def name(self, link: int) -> str:
        """The name of a link in messages and reports, such as `leaf3 -> spine1`."""
        return f"{self.vertex_name(int(self.src[link]))} -> {self.vertex_name(int(self.dst[link]))}"

    def of_kind(self, kind: str) -> IntArray:
        """Ids of the links of a kind; empty when the cluster has none."""
        if kind not in self.kinds:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(self.kind == self.kinds.index(kind))

    def layer_of(self, vertex: int) -> Layer:
        """The layer that vertex id `vertex` belongs to. Raises IndexError beyond the last vertex."""
        for layer in self.layers:
            if vertex < layer.first + layer.count:
                return layer
        raise IndexError(f"no vertex {vertex}")

    def layer(self, kind: str) -> Layer | None:
        """The first layer of a vertex kind, or None."""
        return next((layer for layer in self.layers if layer.kind == kind), None)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Block:
    """Links of one kind and one part, from vertices `src` to `dst` [n]."""

    kind: str
    link: Link
    src: IntArray
    dst: IntArray
    extra_latency: float
    bundle: int


@dataclass(slots=True)
class LinkBuilder:
    """Collects layers and blocks of links, then freezes them into `Links`."""

    layers: list[Layer] = field(default_factory=list)
    _blocks: list[_Block] = field(default_factory=list)
    _n_links: int = 0

    def add_layer(
        self,
        kind: str,
        count: int,
        per_node: int = 0,
        names: tuple[str, ...] = (),
        *,
        first_node: int = 0,
        first_gpu: int = 0,
    ) -> int:
        """Add the `count` vertices of a `Layer`; return the id of the first."""
        first = sum(layer.count for layer in self.layers)
        self.layers.append(
            Layer(
                kind=kind,
                first=first,
                count=count,
                per_node=per_node,
                names=names,
                first_node=first_node,
                first_gpu=first_gpu,
            )
        )
        return first

    def add_links(
        self, kind: str, link: Link, src: ArrayLike, dst: ArrayLike, *, extra_latency: float = 0.0, bundle: int = 1
    ) -> int:
        """Add one link for each pair of vertex ids `src`, `dst` [n]; return the id of the first.

        `extra_latency` [s] is that of the switch at the far end. `bundle` parallel cables are one link of their summed
        capacity.
        """
        first = self._n_links
        tails = np.asarray(src, dtype=np.int64)
        heads = np.asarray(dst, dtype=np.int64)
        if len(tails):
            self._blocks.append(
                _Block(kind=kind, link=link, src=tails, dst=heads, extra_latency=extra_latency, bundle=bundle)
            )
        self._n_links += len(tails)
        return first

    def freeze(self, replacements: Iterable[tuple[IntArray, Link]] = ()) -> Links:
        """Return the finished table; its arrays are read-only.

        Each replacement names links by id and the part that each of their cables is instead. Where several name the
        same link, the last one counts.
        """
        blocks = self._blocks
        kinds = tuple(dict.fromkeys(block.kind for block in blocks))
        sizes = [len(block.src) for block in blocks]
        bundle = np.repeat([block.bundle for block in blocks], sizes)
        extra_latency = np.repeat([block.extra_latency for block in blocks], sizes)
        capacity = np.repeat([block.link.capacity * block.bundle for block in blocks], sizes)
        latency = np.repeat([block.link.latency + block.extra_latency for block in blocks], sizes)
        kind = np.repeat(np.array([kinds.index(block.kind) for block in blocks], dtype=np.int8), sizes)
        src = np.concatenate([block.src for block in blocks])
        dst = np.concatenate([block.dst for block in blocks])
        for ids, part in replacements:
            capacity[ids] = part.capacity * bundle[ids]
            latency[ids] = part.latency + extra_latency[ids]
        columns: list[NDArray[Any]] = [capacity, latency, kind, src, dst]
        for column in columns:
            column.flags.writeable = False
        return Links(
            capacity=capacity, latency=latency, kind=kind, kinds=kinds, src=src, dst=dst, layers=tuple(self.layers)
        )
