"""Double binary trees: a chain in each server, two trees over the servers, summed upwards and broadcast downwards.

Half of the channels use one tree; the others use a tree in which the inner servers of the first are leaves. Chunks are
pipelined, and both directions are in flight together. Source: NCCL src/device/all_reduce.h, runTreeUpDown;
src/graph/trees.cc.
"""

from __future__ import annotations

import math

from dessim.collectives.nccl import protocols
from dessim.collectives.nccl.protocols import LL, SIMPLE, Lanes, Values
from dessim.collectives.nccl.setup import Setup

_SMALLEST_CHUNK = 32 << 10


def depth(nodes: int) -> int:
    """The levels of a binary tree over the servers."""
    return math.ceil(math.log2(nodes)) if nodes > 1 else 0


def passes(nodes: int) -> int:
    """How often the data enters a server, averaged over both trees: once for two servers, twice for more."""
    return 1 if nodes == 2 else 2


def tree(size: float, setup: Setup, lanes: Lanes, c: Values) -> float:
    """Time [us] of an all_reduce of `size` bytes over trees."""
    protocol = lanes.protocol
    local = setup.per_node - 1
    levels = depth(setup.nodes)
    count = max(1, math.ceil(lanes.size / _chunk(lanes, local + levels) - 1e-9))
    chunk = lanes.size / count
    hop = protocols.hop_latency(setup, protocol, c)
    moving = protocols.moving(setup, lanes, chunk, c, c["channel_tree"])
    first = moving * protocols.first_part(protocol, chunk)
    time = protocols.call(protocol, lanes.count, c) + 2 * local * (hop + first)
    stage = moving + (hop / 2 if protocol is SIMPLE else 0.0)
    if levels:
        wire = protocols.on_network(setup, lanes, chunk, c)
        time += 2 * levels * (c[f"network_tree_{protocol.name}"] + first + wire)
        stage = protocols.either(stage, passes(setup.nodes) * wire + 2 * protocols.posts(setup, lanes, c))
    return time + (count - 1) * stage


def _chunk(lanes: Lanes, hops: int) -> float:
    """The chunk in bytes. NCCL halves it while there are fewer than two per hop; with LL it is small already.

    Source: NCCL src/enqueue.cc, calcCollChunking.
    """
    chunk = float(lanes.protocol.tree_chunk)
    while lanes.protocol is not LL and lanes.size / chunk < 2 * hops and chunk > _SMALLEST_CHUNK:
        chunk /= 2
    return chunk
