"""NCCL's own choice: the algorithm and protocol with the shortest time in its cost model.

These are NCCL's estimates, from its own tables; the other modules say how long the choice then takes. Source of all
tables and formulas: NCCL src/graph/tuning.cc (5067397c2676, 2026-06-11), and of release 2.8.4 for older ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dessim.collectives.nccl.protocols import LL, LL128, PROTOCOLS, SIMPLE, Protocol
from dessim.collectives.nccl.ring import steps
from dessim.collectives.nccl.setup import ARCHITECTURES, Setup
from dessim.collectives.nccl.tree import passes
from dessim.trace.schema import Collective

Table = tuple[float, float, float]
_NO_LL128 = ("tcpxo", "tcp", "slingshot")
"""Networks without GPUDirect RDMA, or whose plugin does not deliver bytes in order; NCCL then does not use LL128."""
_UNORDERED = ("volta", "ampere")
"""Architectures in servers whose EFA does not deliver bytes in order, so that the plugin sets NCCL_PROTO=simple.

Source: aws-ofi-nccl src/platform-aws.cpp (2daf7d303aa1); servers of Hopper write in order.
"""
_EFA_LATENCY = {"volta": 150.0, "ampere": 75.0, "hopper": 75.0, "blackwell": 35.0}
"""Time [us] that the EFA plugin reports for a step over the network, and NCCL adds: the same file, `latency`."""


@dataclass(frozen=True, slots=True)
class _Latencies:
    """Times [us] per protocol, for trees and rings: of a call, a hop over NVLink, over PCIe and over the network."""

    base: dict[str, Table]
    nvlink: dict[str, Table]
    pcie: dict[str, Table]
    network: dict[str, Table]


_NEW = _Latencies(
    {"tree": (6.8, 14.0, 8.4), "ring": (6.6, 14.0, 8.4)},
    {"tree": (0.6, 1.25, 4.0), "ring": (0.6, 1.9, 3.4)},
    {"tree": (1.0, 1.9, 4.0), "ring": (1.0, 2.5, 5.7)},
    {"tree": (5.0, 8.5, 14.0), "ring": (2.7, 4.0, 14.0)},
)
_OLD = _Latencies(
    {"tree": (4.4, 4.4, 0.0), "ring": (3.6, 10.0, 8.4)},
    {"tree": (0.52, 1.25, 28.0), "ring": (0.47, 1.9, 3.4)},
    {"tree": (1.0, 1.9, 28.0), "ring": (1.0, 2.5, 5.7)},
    {"tree": (5.0, 8.5, 28.0), "ring": (2.7, 4.0, 9.6)},
)
# GB/s by architecture, for 1, 2 and more servers.
_LL_MAX: tuple[Table, ...] = ((39.0, 39.0, 20.4), (87.7, 22.5, 19.0), (141.0, 45.0, 35.0), (282.0, 90.0, 70.0))
_RING_LL128: tuple[Table, ...] = ((20.0,) * 3, (20.0,) * 3, (36.7,) * 3, (40.0,) * 3)
_TREE_LL128: tuple[Table, ...] = ((20.0,) * 3, (20.0,) * 3, (36.7, 36.7, 29.0), (55.6, 31.67, 20.0))
_TREE: tuple[Table, ...] = ((26.5, 18.5, 10.0), (24.0, 23.6, 17.8), (38.7, 41.4, 36.0), (70.0, 42.8, 24.0))
_NVLS_TREE: tuple[Table, ...] = ((0.0,) * 3, (0.0,) * 3, (0.0, 57.7, 45.5), (0.0, 96.0, 80.0))
_NVLS_EFFICIENCY = (0.0, 0.0, 0.85, 0.74)
_OLD_LL128_CHANNEL = 16.9
_LL_HALF_RATE_SINCE = (2, 21)
"""The first release that counts half of the rate for rings with LL, not a quarter or a third."""
_EXACT_STEPS_SINCE = (2, 23)
"""The first release that counts 2(k-1) steps of an all_reduce between k servers, not 2k."""
_OLD_LIMIT = 235.0
# The share of a tree's rate by size, 64 B to 256 MiB in powers of two.
_CORRECTION = (
    (1, 1, 1, 1, 0.9, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.4, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1, 1, 1, 1),
    (1, 1, 1, 1, 1, 0.9, 0.8, 0.8, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.8, 0.9, 0.9, 0.9, 0.9, 1, 1, 1),
    (0.9,) * 7 + (0.8, 0.7, 0.6, 0.6, 0.5, 0.5, 0.5, 0.5, 0.6, 0.7, 0.8, 0.7, 0.7, 0.8, 0.9, 0.9, 0.9),
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An algorithm and protocol, and the time [us] that NCCL's tuner expects of it."""

    expected: float
    algorithm: str
    protocol: Protocol


def candidates(op: Collective, size: float, setup: Setup) -> list[Candidate]:
    """All algorithms and protocols that NCCL may choose from for this op on S = `size` bytes."""
    offered = [*_rings(op, size, setup)]
    if op is Collective.ALL_REDUCE:
        offered += [*_trees(size, setup), *_switches(op, size, setup)]
    if op in (Collective.ALL_GATHER, Collective.REDUCE_SCATTER):
        offered += _pat(size, setup)
    return offered


def _index(setup: Setup) -> tuple[int, int, int]:
    """The row of the tables by architecture, the row for LL, and the column by number of servers.

    Across servers the row for LL depends on the maker of the host's processor.
    """
    architecture = ARCHITECTURES.index(setup.architecture)
    if setup.nodes > 1:
        return architecture, int(setup.amd), min(setup.nodes, 3) - 1
    return architecture, min(architecture, 1) if setup.old else architecture, 0


def _bus(setup: Setup) -> float:
    """Rate [GB/s] of all channels together: of NVLink inside a server, of the slower of NVLink and NICs across them."""
    inside = min(setup.nvlink, _OLD_LIMIT) if setup.old and setup.architecture == "ampere" else setup.nvlink
    return inside if setup.nodes == 1 else min(inside, setup.nics * min(setup.nic, 48.0))


def _protocols(setup: Setup) -> Iterator[tuple[int, Protocol]]:
    if setup.nodes > 1 and setup.network == "efa" and setup.architecture in _UNORDERED:
        yield PROTOCOLS.index(SIMPLE), SIMPLE
        return
    for number, protocol in enumerate(PROTOCOLS):
        if protocol is not LL128 or (setup.has_nvlink and (setup.nodes == 1 or setup.network not in _NO_LL128)):
            yield number, protocol


def _rings(op: Collective, size: float, setup: Setup) -> Iterator[Candidate]:
    architecture, host, servers = _index(setup)
    tables = _OLD if setup.old else _NEW
    rooted = op in (Collective.BROADCAST, Collective.REDUCE)
    count = setup.n if rooted else steps(op, setup.n)
    for number, protocol in _protocols(setup):
        rate = _bus(setup)
        if protocol is LL:
            third = setup.nodes == 1 and op not in (Collective.ALL_REDUCE, Collective.REDUCE)
            share = 0.5 if setup.release >= _LL_HALF_RATE_SINCE else 1 / 3 if third else 0.25
            rate = min(_LL_MAX[host][servers], rate * share)
        elif protocol is LL128:
            channel = _OLD_LL128_CHANNEL if setup.old else _RING_LL128[architecture][servers]
            rate = min(rate * 0.92, setup.searched_channels * channel)
        latency = tables.base["ring"][number] + _ring_latency(op, count, number, setup, tables)
        if protocol is SIMPLE and _on_plateau(op, size, setup):
            latency *= 1.9 if setup.old or setup.architecture == "volta" else 1.4
        yield Candidate(latency + size / (rate * setup.n / count * 1e3), "ring", protocol)


def _on_plateau(op: Collective, size: float, setup: Setup) -> bool:
    """Whether a ring over several servers has reached the size from which NCCL raises its latency."""
    return op is Collective.ALL_REDUCE and setup.nodes > 1 and size / (setup.channels * setup.n) >= 64


def _ring_latency(op: Collective, count: int, number: int, setup: Setup, tables: _Latencies) -> float:
    inside = (tables.nvlink if setup.has_nvlink else tables.pcie)["ring"][number]
    network = _network(setup, tables, "tree" if setup.per_node == 1 and not setup.old else "ring", number)
    if op in (Collective.BROADCAST, Collective.REDUCE):
        return count * (network if setup.nodes > 1 else inside)
    across = 0 if setup.nodes == 1 else (2 if op is Collective.ALL_REDUCE else 1) * (setup.nodes - 1)
    if across and op is Collective.ALL_REDUCE and not setup.old and setup.release < _EXACT_STEPS_SINCE:
        across += 2
    if setup.old:
        inside *= 1.8 if setup.nodes > 1 and number == 0 else 1.0
    elif setup.nodes > 1:
        inside = max(inside, (2.0 if setup.amd else 1.0) * (3 if number == 2 else 1))
    return (count - across) * inside + across * network


def _network(setup: Setup, tables: _Latencies, algorithm: str, number: int) -> float:
    """Time [us] of a step over the network; Simple counts the plugin's latency twice, for the flush."""
    reported = _EFA_LATENCY[setup.architecture] if setup.network == "efa" else 0.0
    return tables.network[algorithm][number] + reported * (2 if number == 2 else 1)


def _tree_graph(setup: Setup) -> tuple[float, int]:
    """Rate [GB/s] of all channels of trees together, and the number of these channels.

    A tree sends up to twice as much inside a server as through the NICs. Between two servers NCCL counts the rate
    inside, and splits channels of 25 GB/s or more in two. Measurements of GPUs that are joined pairwise show rings
    instead. Source: NCCL src/graph/search.cc, ncclTopoCompute and ncclTopoDupChannels.
    """
    bus = _bus(setup)
    channels = setup.searched_channels
    if setup.nodes != 2 or setup.old or setup.wiring != "switched":
        return bus, channels
    bus = min(setup.nvlink, 2 * bus)
    whole = setup.architecture in ("hopper", "blackwell") and bus / channels < 50 and channels > 4
    return bus, channels if bus / channels < 25 or whole else 2 * channels


def _trees(size: float, setup: Setup) -> Iterator[Candidate]:
    architecture, host, servers = _index(setup)
    tables = _OLD if setup.old else _NEW
    bus, channels = _tree_graph(setup)
    for number, protocol in _protocols(setup):
        rate = min(bus * 0.92, channels * _TREE[architecture][servers])
        if protocol is LL:
            rate = min(rate / 3.8, _LL_MAX[host][servers])
        elif protocol is LL128:
            channel = _OLD_LL128_CHANNEL if setup.old else _TREE_LL128[architecture][servers]
            rate = min(rate * (7 / 9 if setup.nodes == 1 else 120 / 128), channels * channel)
        inside = (tables.nvlink if setup.has_nvlink else tables.pcie)["tree"][number]
        if setup.old and setup.nodes > 1 and protocol is LL:
            inside *= 1.8
        hops = (setup.per_node - 1) * inside + _log2(setup.nodes) * _network(setup, tables, "tree", number)
        rate *= _corrected(number, size)
        yield Candidate(tables.base["tree"][number] + 2 * hops + size / (rate * 0.5e3), "tree", protocol)


def _switches(op: Collective, size: float, setup: Setup) -> Iterator[Candidate]:
    architecture, _, servers = _index(setup)
    inside = setup.nvlink * _NVLS_EFFICIENCY[architecture] * 2
    ratio = setup.n / steps(op, setup.n) * 1e3
    if setup.nvls and inside and setup.per_node > 2:
        if setup.nodes == 1:
            yield Candidate(25.0 + size / (inside * 15 / 16 * ratio), "nvls", SIMPLE)
        else:
            # Between two servers a tree carries the data once, so that its rate counts twice.
            rate = _bus(setup) * 2 / passes(setup.nodes)
            rate = min(inside, rate, setup.searched_channels * _NVLS_TREE[architecture][servers])
            rate *= _corrected(2, size) if setup.architecture == "blackwell" else 1.0
            yield Candidate(25.0 + 2 * _log2(setup.nodes) * 20.9 + size / (rate * ratio), "nvls_tree", SIMPLE)
    if setup.sharp and setup.nodes > 1:
        latency = 2 * (min(1, setup.per_node - 1) * 3.7 + (setup.per_node - 1) * 0.4) + 31.0
        factor = setup.per_node / max(1, setup.nics)
        rate = _bus(setup) / (factor - (factor - 1) / 2) * (0.85 if architecture >= 2 else 1.0)
        yield Candidate(latency + size / (rate * 1e3), "collnet", SIMPLE)


def _pat(size: float, setup: Setup) -> list[Candidate]:
    if setup.per_node != 1 or setup.nodes < 2 or setup.old:
        return []
    latency = 8.0 + _log2(setup.nodes) * 14.0 / 3.5 + setup.n * 2.8
    return [Candidate(latency + size / (_bus(setup) * 0.75e3), "pat", SIMPLE)]


def _corrected(number: int, size: float) -> float:
    step = _log2(int(size) // 64) if size >= 64 else -1
    return float(_CORRECTION[number][step]) if 0 <= step < 23 else 1.0


def _log2(value: int) -> int:
    return max(0, value.bit_length() - 1)
