"""What NCCL's steps cost: the constants of the model, each with its source, and the factors of a transport.

A transport does not repeat the constants. It has a factor on each, the same for all architectures or one for each. A
calibration fits the factors and holds them near 1, which stands for the value of the source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dessim.collectives.nccl.setup import Setup
from dessim.errors import UsageError

Factors = Mapping[str, float | Mapping[str, float]]
"""Constant -> factor, or constant -> architecture -> factor."""
_TUNING = "NCCL src/graph/tuning.cc (5067397c2676)"
_OLD_TUNING = "NCCL 2.8.4 src/graph/tuning.cc"
_P2P = "NCCL src/enqueue.cc, addP2pToPlan"


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant in us or GB/s, or a share. If `value` is a table, it is given by architecture or release.

    `spread` is the standard deviation of the logarithm by which a cluster may differ before it has been measured;
    `by` says what a factor depends on: `architecture`, `network`, or nothing.
    """

    value: float | Mapping[str, float]
    unit: str
    spread: float
    source: str
    by: str = ""


def _by_architecture(volta: float, ampere: float, hopper: float, blackwell: float) -> dict[str, float]:
    return {"volta": volta, "ampere": ampere, "hopper": hopper, "blackwell": blackwell}


_EVERY = "architecture"
_NET = "network"
CONSTANTS: dict[str, Constant] = {
    # A call.
    "launch": Constant(
        _by_architecture(4.0, 6.6, 6.6, 6.6),
        "us",
        0.25,
        f"{_TUNING}, base latency of ring LL; {_OLD_TUNING}, V100",
        _EVERY,
    ),
    "launch_ll128": Constant(7.4, "us", 0.5, f"{_TUNING}, base latency of ring LL128 beyond LL: 14.0 - 6.6 us"),
    "launch_simple": Constant(3.0, "us", 0.5, f"{_TUNING}, base latency of ring Simple beyond LL: 1.8 us"),
    "launch_channel": Constant(
        {"old": 1.0, "new": 0.1}, "us", 0.7, "assumed: releases before 2.12 read the work of a channel from host memory"
    ),
    "process_launch": Constant(4.5, "us", 0.3, "cudaLaunchKernel of one GPU after the other by one process", _EVERY),
    "process_channel": Constant(0.2, "us", 0.5, "assumed: host time for the work of one channel"),
    # Steps inside a server.
    "hop_ll": Constant(
        _by_architecture(0.47, 0.6, 0.6, 0.6), "us", 0.25, f"{_TUNING}, hw latency; {_OLD_TUNING}", _EVERY
    ),
    "hop_ll128": Constant(1.9, "us", 0.3, f"{_TUNING}, hw latency, ring LL128 over NVLink", _EVERY),
    "hop_simple": Constant(3.4, "us", 0.3, f"{_TUNING}, hw latency, ring Simple over NVLink", _EVERY),
    "hop_pcie": Constant(
        1.67, "share", 0.2, f"{_TUNING}, hw latency of ring over PCIe / NVLink: 1.0/0.6, 2.5/1.9, 5.7/3.4"
    ),
    "iteration_ll": Constant(
        _by_architecture(0.5, 0.45, 0.28, 0.14),
        "us",
        0.3,
        f"{_TUNING}, llMaxBws of one server / channels, in 4 KiB",
        _EVERY,
    ),
    "channel_ll": Constant(_by_architecture(5.4, 6.1, 9.9, 20.0), "GB/s", 0.25, f"{_TUNING}, as iteration_ll", _EVERY),
    "channel_ll128": Constant(
        _by_architecture(20.0, 20.0, 36.7, 40.0), "GB/s", 0.3, f"{_TUNING}, perChMaxRingLL128Bws", _EVERY
    ),
    "channel_simple": Constant(
        _by_architecture(26.5, 24.0, 38.7, 70.0), "GB/s", 0.1, f"{_TUNING}, perChMaxTreeBws of one server", _EVERY
    ),
    "channel_tree": Constant(1.0, "share", 0.5, "assumed: a channel of a tree against one of a ring"),
    "nvlink_efficiency": Constant(0.97, "share", 0.05, "assumed; NCCL src/graph/topo.h already counts payload", _EVERY),
    "nvls_latency": Constant(
        22.0, "us", 0.3, f"{_TUNING}, hw latency of NVLS: 25 us, of which a chunk is counted apart"
    ),
    "nvls_round": Constant(3.0, "us", 0.5, "assumed: two synchronisations of a chunk through the switch"),
    "nvls_efficiency": Constant(0.85, "share", 0.1, f"{_TUNING}, nvlsEfficiency of Hopper", _EVERY),
    # Steps across the network.
    "network_tree_ll": Constant(5.0, "us", 0.4, f"{_TUNING}, hw latency, tree over the network", _NET),
    "network_tree_ll128": Constant(8.5, "us", 0.4, f"{_TUNING}, hw latency, tree over the network", _NET),
    "network_tree_simple": Constant(14.0, "us", 0.4, f"{_TUNING}, hw latency, tree over the network", _NET),
    "network_ring_ll": Constant(2.7, "us", 0.4, f"{_TUNING}, hw latency, ring over the network", _NET),
    "network_ring_ll128": Constant(4.0, "us", 0.4, f"{_TUNING}, hw latency, ring over the network", _NET),
    "network_ring_simple": Constant(14.0, "us", 0.4, f"{_TUNING}, hw latency, ring over the network", _NET),
    "network_nvls_tree": Constant(20.9, "us", 0.3, f"{_TUNING}, hw latency, NVLSTree over the network", _NET),
    "network_collnet": Constant(31.0, "us", 0.4, f"{_TUNING}, hw latency, CollNetDirect over the network", _NET),
    "message": Constant(1.0, "us", 0.5, f"{_TUNING}, getNetOverhead on Intel hosts", _NET),
    "network_efficiency": Constant(
        0.96, "share", 0.02, "nccl-tests issues 267 and 290: 46 to 49 GB/s of a 50 GB/s NIC", _NET
    ),
    # Messages between two ranks.
    "p2p_channel": Constant(
        18.0, "GB/s", 0.3, "assumed near channel_simple: half of the threads send, half receive", _EVERY
    ),
    "p2p_network_channel": Constant(
        12.5, "GB/s", 0.3, "NCCL src/graph/paths.cc, P2P_PER_CHANNEL_NET_BW: 14 GB/s", _NET
    ),
    "p2p_peer": Constant(0.4, "us", 0.7, f"assumed: {_P2P} runs once a peer"),
    "p2p_network": Constant(14.0, "us", 0.4, f"{_TUNING}, hw latency of Simple over the network", _NET),
    "p2p_inject": Constant(
        15.0, "us", 0.3, "libfabric pull request 8881: a small message copied from a GPU by cudaMemcpy", _NET
    ),
    "p2p_message": Constant(0.25, "us", 0.25, "assumed: a NIC's time for one message of 128 KiB at most", _NET),
    # How much of a chain's filling time repeated broadcasts show.
    "fill": Constant(0.05, "share", 0.7, "assumed: calls follow each other closely where all channels have one order"),
    "fill_network": Constant(
        0.8, "share", 0.3, f"{_TUNING}, `sameChannels`: channels in different orders wait for the chain"
    ),
}
"""Name -> constant. The unit of a share is none."""


def value_of(name: str, setup: Setup) -> float:
    """The value of a constant as its source gives it, on this set-up."""
    value = CONSTANTS[name].value
    if isinstance(value, float):
        return value
    return value[setup.architecture if setup.architecture in value else "old" if setup.old else "new"]


def values(setup: Setup, factors: Factors, overhead: float = 1.0) -> dict[str, float]:
    """Every constant on this set-up, in us and GB/s, with the factors of a transport.

    Times are also multiplied by `overhead`. Raises UsageError for a factor on an unknown constant.
    """
    unknown = [name for name in factors if name not in CONSTANTS]
    if unknown:
        raise UsageError(f"the transport has a factor on {unknown[0]!r}; known: {', '.join(CONSTANTS)}")
    return {
        name: possible(name, value_of(name, setup) * factor_of(factors.get(name, 1.0), setup))
        * (overhead if c.unit == "us" else 1.0)
        for name, c in CONSTANTS.items()
    }


def possible(name: str, value: float) -> float:
    """`value`, limited to 1 if the constant is the share of a link's rate that is reached."""
    return min(value, 1.0) if name.endswith("efficiency") else value


def factor_of(factor: float | Mapping[str, float], setup: Setup) -> float:
    """The factor for the architecture of the set-up; 1 where a table does not name it."""
    return factor if isinstance(factor, int | float) else factor.get(setup.architecture, 1.0)


def factors_of(factors: Factors, setup: Setup) -> dict[str, float]:
    """Each factor for the architecture of the set-up."""
    return {name: factor_of(factor, setup) for name, factor in factors.items()}
