"""The bytes that links carry for a collective of NCCL: the edges of its rings and trees, as one stage.

Chunks are pipelined along the edges, so all edges carry their bytes at the same time. Channels start at different GPUs
of a server, and the bytes of all channels on an edge are added up. Between servers channel c uses the NIC of GPU c on
both sides, so traffic stays on its rail. A sum inside an NVSwitch counts as the bytes that each GPU sends and receives
for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.collectives.nccl.setup import Setup
from dessim.collectives.nccl.tree import passes
from dessim.collectives.schedule import Stage
from dessim.collectives.tree import parents
from dessim.trace.schema import Collective

_TREES = ("tree", "nvls_tree")
"""Algorithms that join servers by trees."""
_MOST_MESSAGES = 2**20
"""The most messages of one stage; more would fill the memory."""


@dataclass(frozen=True, slots=True)
class Servers:
    """The members of a group by server, in the order of the group: `members[k]` are those on server k."""

    members: tuple[Ints, ...]

    @classmethod
    def of(cls, nodes: Ints) -> Servers:
        """From the server of each member [n]."""
        _, first = np.unique(nodes, return_index=True)
        return cls(tuple(np.flatnonzero(nodes == nodes[i]) for i in np.sort(first)))

    @property
    def heads(self) -> int:
        """How many members of a server talk to others: the size of the smallest server."""
        return min(len(members) for members in self.members)


@dataclass(frozen=True, slots=True)
class CollectiveEdges:
    """The edges of a collective as one `stage`, and the `seconds` that its busiest port needs at full rate."""

    stage: Stage
    seconds: float


def collective_edges(
    op: Collective, algorithm: str, size: float, *, wire: float, setup: Setup, servers: Servers, nic: float
) -> CollectiveEdges:
    """The edges of `algorithm` for S = `size` bytes.

    A byte of data takes `wire` bytes on the wire; a NIC moves `nic` bytes/s.
    """
    inside, across = _bytes(op, algorithm, size * wire, setup)
    edges = [*_within(servers, inside, algorithm == "tree")]
    if len(servers.members) > 1:
        edges += _between(servers, across, algorithm)
    src, dst, sizes = (np.concatenate(column) for column in zip(*edges, strict=True))
    stage = Stage(("nccl", str(op), algorithm), src.astype(np.int64), dst.astype(np.int64), sizes.astype(np.float64))
    both = 2 * (1 - 1 / setup.per_node) if algorithm == "tree" else 1.0
    times = passes(setup.nodes) if algorithm in _TREES else 1
    return CollectiveEdges(stage, busy_seconds(inside * both, across * times, setup, nic))


def along_rails(size: float, servers: Servers) -> Stage | None:
    """The messages of an even all_to_all of S = `size` bytes whose paths change rail before they leave a server (PXN).

    A GPU hands the bytes for GPU j of all other servers to GPU j of its own server, and rail j carries those of all
    GPUs of the server together. Every link carries the same bytes as with a message per pair of ranks; in servers of 8
    GPUs there are about 8 times fewer messages (NCCL src/transport/net.cc, PXN). None where there is one server, where
    servers have one GPU or different numbers of them, and for more than `_MOST_MESSAGES`.
    """
    counts = {len(members) for members in servers.members}
    if len(servers.members) < 2 or len(counts) > 1 or counts == {1}:
        return None
    members = np.stack(servers.members)  # [servers, GPUs of each]
    m, g = members.shape
    if m * g * (m + g - 2) > _MOST_MESSAGES:
        return None
    # A GPU sends 1/g of its bytes to each other GPU of its server, and 1/m to each other server along its rail.
    edges = [
        (members.ravel(), np.roll(members, -hop, axis).ravel(), np.full(m * g, 1 / places))
        for axis, places in ((1, g), (0, m))
        for hop in range(1, places)
    ]
    src, dst, share = (np.concatenate(column) for column in zip(*edges, strict=True))
    return Stage(("nccl", "rails"), src, dst, share * size)


def busy_seconds(inside: float, across: float, setup: Setup, nic: float) -> float:
    """Seconds in which a GPU sends `inside` bytes, or a server `across` bytes through NICs of `nic` bytes/s."""
    network = across / (setup.nics * nic) if setup.nodes > 1 else 0.0
    return max(inside / (setup.nvlink * 1e9) if setup.per_node > 1 else 0.0, network)


def _bytes(op: Collective, algorithm: str, size: float, setup: Setup) -> tuple[float, float]:
    """Bytes that a GPU sends inside its server, and that leave a server along one edge."""
    if algorithm in ("nvls", "nvls_tree"):
        return size * (1 + 1 / setup.per_node), size
    if algorithm == "collnet":
        return 2 * size * (1 - 1 / setup.per_node), size
    if algorithm == "tree":
        return size, size
    rounds = 2.0 if op is Collective.ALL_REDUCE else 1.0
    if op in (Collective.BROADCAST, Collective.REDUCE):
        return size, size
    carried = rounds * size * (1 - 1 / setup.n)
    return carried, carried


def _within(servers: Servers, size: float, both_ways: bool) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Edges from each GPU to the next of its server. With several servers, one channel in g leaves the server there."""
    alone = len(servers.members) == 1
    for members in servers.members:
        count = len(members)
        if count > 1:
            sent = size if alone and not both_ways else size * (count - 1) / count
            following = np.roll(members, -1)
            yield members, following, np.full(count, sent)
            if both_ways:
                yield following, members, np.full(count, sent)


def _between(servers: Servers, size: float, algorithm: str) -> list[tuple[Ints, Ints, Floats]]:
    heads = servers.heads
    pairs = _tree_pairs(len(servers.members)) if algorithm in _TREES else _ring_pairs(servers)
    edges = []
    for source, target, share in pairs:
        sent = np.full(heads, size * share / heads)
        edges.append((servers.members[source][:heads], servers.members[target][:heads], sent))
    return edges


def _ring_pairs(servers: Servers) -> list[tuple[int, int, float]]:
    count = len(servers.members)
    return [(k, (k + 1) % count, 1.0) for k in range(count)]


def _tree_pairs(count: int) -> list[tuple[int, int, float]]:
    """Both trees over the servers, half of the bytes each, up and down: NCCL src/graph/trees.cc, ncclGetDtree."""
    first = parents(count)
    mirror = (np.arange(count) - 1) % count if count % 2 else count - 1 - np.arange(count)
    place = np.argsort(mirror)
    pairs = []
    for child in range(1, count):
        for a, b in ((child, int(first[child])), (int(place[child]), int(place[first[child]]))):
            pairs += [(a, b, 0.5), (b, a, 0.5)]
    return pairs
