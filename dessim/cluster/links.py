"""Directed links as arrays, and the vertices they join.

A cluster of 65,536 GPUs has a few hundred thousand links, so they are columns of a table rather than objects. Links are
added in blocks: a block is all links of one kind (all `nic_up`, say), and the link of member i is `block + i`, which
is what lets routes be computed with array arithmetic alone.
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


@dataclass(frozen=True, slots=True)
class Layer:
    """Vertices `first .. first + count - 1`, all of one kind; `per_node` of them belong to each node (0: to none).

    The first is of node `first_node`; GPUs are numbered from `first_gpu`. `names` [count] where a file gives them names
    of their own.
    """

    kind: str
    first: int
    count: int
    per_node: int = 0
    names: tuple[str, ...] = ()
    first_node: int = 0
    first_gpu: int = 0

    def nodes(self) -> IntArray:
        """The node of each vertex, -1: none, [count]."""
        if not self.per_node:
            return np.full(self.count, -1)
        return self.first_node + np.arange(self.count) // self.per_node

    def name(self, index: int) -> str:
        """`gpu5`, `node0/nvswitch`, `node3/nic1`, `leaf2`."""
        if self.names:
            return self.names[index]
        if self.kind == "gpu" or not self.per_node:
            return f"{self.kind}{self.first_gpu + index}"
        number = str(index % self.per_node) if self.kind != "nvswitch" else ""
        return f"node{self.first_node + index // self.per_node}/{self.kind}{number}"


@dataclass(frozen=True, slots=True, eq=False)
class Links:
    """All directed links: `capacity` [L] payload bytes/s, `latency` [L] s, `kind` [L] index into `kinds`,
    `src` and `dst` [L] vertex ids, which `layers` name. `even`: links of one kind have one capacity; `level`: and one
    latency; `faulty`: some are down, which is to have none."""

    capacity: FloatArray
    latency: FloatArray
    kind: NDArray[np.int8]
    kinds: tuple[str, ...]
    src: IntArray
    dst: IntArray
    layers: tuple[Layer, ...]
    even: bool = field(init=False)
    level: bool = field(init=False)
    faulty: bool = field(init=False)

    def __post_init__(self) -> None:
        members = [self.kind == number for number in range(len(self.kinds))]
        for name, column in (("even", self.capacity), ("level", self.latency)):
            kinds = [column[of] for of in members]
            object.__setattr__(self, name, all(bool((kind == kind[0]).all()) for kind in kinds if len(kind)))
        object.__setattr__(self, "faulty", bool((self.capacity == 0).any()))

    def __len__(self) -> int:
        return len(self.capacity)

    def vertex_name(self, vertex: int) -> str:
        """The name of a vertex id."""
        for layer in self.layers:
            if vertex < layer.first + layer.count:
                return layer.name(vertex - layer.first)
        raise IndexError(f"no vertex {vertex}")

    def name(self, link: int) -> str:
        """`leaf3 -> spine1`, for messages and reports."""
        return f"{self.vertex_name(int(self.src[link]))} -> {self.vertex_name(int(self.dst[link]))}"

    def of_kind(self, kind: str) -> IntArray:
        """Indices of the links of a kind; empty when the cluster has none."""
        if kind not in self.kinds:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(self.kind == self.kinds.index(kind))

    def layer(self, kind: str) -> Layer | None:
        """The first layer of a vertex kind, or None."""
        return next((layer for layer in self.layers if layer.kind == kind), None)


@dataclass(slots=True)
class LinkBuilder:
    """Collects layers and blocks of links, then freezes them into `Links`."""

    layers: list[Layer] = field(default_factory=list)
    _blocks: list[tuple[str, Link, IntArray, IntArray, float, int]] = field(default_factory=list)
    _links: int = 0

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
        """Add `count` vertices, as `Layer` has them; return the id of the first."""
        first = sum(layer.count for layer in self.layers)
        self.layers.append(Layer(kind, first, count, per_node, names, first_node, first_gpu))
        return first

    def add_links(
        self, kind: str, link: Link, src: ArrayLike, dst: ArrayLike, *, extra_latency: float = 0.0, bundle: int = 1
    ) -> int:
        """Add one link for each pair of `src`, `dst` [n] vertex ids; return the id of the first.

        `extra_latency` [s] is the switch at the far end; `bundle` parallel cables count as one link of their sum.
        """
        first = self._links
        tails, heads = np.asarray(src, dtype=np.int64), np.asarray(dst, dtype=np.int64)
        if len(tails):
            self._blocks.append((kind, link, tails, heads, extra_latency, bundle))
        self._links += len(tails)
        return first

    def freeze(self, instead: Iterable[tuple[IntArray, Link]] = ()) -> Links:
        """The finished table; its arrays are read-only.

        `instead` names links that are another part, cable for cable; of several for one link the last counts.
        """
        kinds, parts, tails, heads, extras, bundles = zip(*self._blocks, strict=True)
        names, sizes = tuple(dict.fromkeys(kinds)), [len(tail) for tail in tails]
        columns: list[NDArray[Any]] = [
            np.repeat([part.capacity * bundle for part, bundle in zip(parts, bundles, strict=True)], sizes),
            np.repeat([part.latency + extra for part, extra in zip(parts, extras, strict=True)], sizes),
            np.repeat(np.array([names.index(kind) for kind in kinds], dtype=np.int8), sizes),
            np.concatenate(tails),
            np.concatenate(heads),
        ]
        for ids, part in instead:
            columns[0][ids] = part.capacity * np.repeat(bundles, sizes)[ids]
            columns[1][ids] = part.latency + np.repeat(extras, sizes)[ids]
        for column in columns:
            column.flags.writeable = False
        capacity, latency, kind, src, dst = columns
        return Links(capacity, latency, kind, names, src, dst, tuple(self.layers))
