"""Sums in switches: NVLS inside a server, NVLS trees across servers, CollNet (SHARP) in the fabric, and PAT.

Chunks shrink with the size as in NCCL src/enqueue.cc, calcCollChunking. A round of chunks has one for every channel and
head, and is synchronised through the switch. While one round is summed, the one before is multicast.
"""

from __future__ import annotations

import math

from dessim.collectives.nccl import protocols
from dessim.collectives.nccl.protocols import SIMPLE, US_PER_BYTE_AT_GB, Lanes, Values
from dessim.collectives.nccl.setup import Setup
from dessim.collectives.nccl.tree import depth, passes

_NVLS_CHANNELS = {"hopper": 16, "blackwell": 32}
"""NCCL src/transport/nvls.cc, NVLS_NCHANNELS_SM90 and _SM100."""
_CHUNK = 128 << 10


def nvls(size: float, setup: Setup, c: Values) -> float:
    """Time [us] of an all_reduce of `size` bytes inside a server whose NVSwitches sum."""
    per_byte = _multicast(setup, c)
    round_size = _nvls_channels(setup) * setup.n * _shrunk(size, setup, ((64, 64), (8, 32), (2, 16)), _CHUNK)
    rounds = max(1.0, size / round_size)
    return c["nvls_latency"] + (size + min(size, round_size)) * per_byte + (rounds + 1) * c["nvls_round"]


def nvls_tree(size: float, setup: Setup, c: Values) -> float:
    """Time [us] of an all_reduce of `size` bytes: sums by NVLS in the servers, trees between them."""
    largest = 64 << 10 if setup.architecture == "blackwell" else _CHUNK
    chunk = _shrunk(size, setup, ((4, 64), (1, 32)), largest, heads=setup.per_node)
    count = max(1.0, size / (_nvls_channels(setup) * setup.per_node * chunk))
    wire = size / count * US_PER_BYTE_AT_GB / (setup.node_network * c["network_efficiency"])
    inside = size / count * _multicast(setup, c)
    stage = protocols.either(passes(setup.nodes) * wire + c["message"], inside + c["nvls_round"])
    return c["nvls_latency"] + 2 * depth(setup.nodes) * (c["network_nvls_tree"] + wire) + inside + (count - 1) * stage


def collnet(size: float, setup: Setup, lanes: Lanes, c: Values) -> float:
    """Time [us] of an all_reduce of `size` bytes that the fabric's switches sum (SHARP), over all NICs of a server."""
    inside = 2 * size * (1 - 1 / setup.per_node) * US_PER_BYTE_AT_GB / (setup.nvlink * c["nvlink_efficiency"])
    wire = size * US_PER_BYTE_AT_GB / (setup.node_network * c["network_efficiency"])
    hops = 2 * protocols.hop_latency(setup, SIMPLE, c) + c["network_collnet"] + 0.8 * (setup.per_node - 1)
    first = min(1.0, setup.nics * _CHUNK / size)
    return protocols.call(SIMPLE, lanes.count, c) + hops + protocols.either(inside, wire) + first * (inside + wire)


def pat(size: float, setup: Setup, lanes: Lanes, c: Values) -> float:
    """Time [us] of an all_gather or reduce_scatter by PAT, with one GPU per server: log2(n) distances, n messages.

    Source: NCCL src/graph/tuning.cc: log latency interLat / 3.5, 2.8 us per rank, three quarters of the rate.
    """
    wire = size * (1 - 1 / setup.n) * US_PER_BYTE_AT_GB / (0.75 * setup.node_network * c["network_efficiency"])
    levels = math.ceil(math.log2(setup.n))
    latency = levels * c["network_tree_simple"] / 3.5 + setup.n * 2.8
    return protocols.call(SIMPLE, lanes.count, c) + latency + wire


def _nvls_channels(setup: Setup) -> int:
    return _NVLS_CHANNELS.get(setup.architecture, 16)


def _multicast(setup: Setup, c: Values) -> float:
    """Time [us] per byte: each of g GPUs sends S and receives S, and 1/g of it once more."""
    return (1 + 1 / setup.per_node) * US_PER_BYTE_AT_GB / (setup.nvlink * c["nvls_efficiency"])


def _shrunk(
    size: float, setup: Setup, limits: tuple[tuple[int, int], ...], chunk: int, heads: int | None = None
) -> int:
    """The chunk in bytes, at most `chunk`.

    For each (count, KiB) of `limits` in turn, it shrinks to KiB if the data fills fewer than `count` rounds of it.
    """
    concurrent = _nvls_channels(setup) * (heads or setup.n)
    for count, kib in limits:
        if size < count * concurrent * chunk and chunk > kib << 10:
            chunk = kib << 10
    return chunk
