"""Grouped sends and receives: all_to_all, sendrecv, gather and scatter over point-to-point channels.

The messages to all peers leave side by side, so a call pays the latency of one step of Simple only once.

A message is spread over some of the channels of its peer: over few where there are many peers, over more once its parts
are large. Across servers it moves in steps of 128 KiB, each a message of the NIC. To a GPU on another rail, a GPU sends
through the GPU of its server that is on that rail (PXN), which costs no more than the hop. Sources: NCCL
src/enqueue.cc, addP2pToPlan; src/graph/paths.cc; src/init.cc, NCCL_P2P_NET_CHUNKSIZE and NCCL_P2P_NVL_CHUNKSIZE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dessim.collectives.nccl import protocols
from dessim.collectives.nccl.protocols import SIMPLE, US_PER_BYTE_AT_GB, Values
from dessim.collectives.nccl.setup import Setup

_NETWORK_STEP = 128 << 10
_NVLINK_STEP = 512 << 10
_INJECTED = 192
"""Bytes of the longest message that Slingshot's library copies into the NIC: C_MAX_IDC_PAYLOAD_UNR of its headers."""


@dataclass(frozen=True, slots=True)
class Peers:
    """The peers to which the busiest GPU sends `size` bytes each: `local` in its server, `remote` in others.

    `sharing` GPUs of a server send through its NICs at the same time.
    """

    size: float
    local: int
    remote: int
    sharing: int


def all_to_all(size: float, setup: Setup) -> Peers:
    """S/n bytes to each GPU, S = `size`."""
    return Peers(size / setup.n, setup.per_node - 1, setup.n - setup.per_node, setup.per_node)


def send_recv(size: float, setup: Setup) -> Peers:
    """S = `size` bytes to the next GPU; one GPU of each server sends to another server."""
    return Peers(size, min(1, setup.per_node - 1), min(1, setup.nodes - 1), 1)


def step(setup: Setup) -> int:
    """Bytes that a channel moves at a time."""
    return _NETWORK_STEP if setup.nodes > 1 or not setup.has_nvlink else _NVLINK_STEP


def channels_of_peer(setup: Setup, size: float) -> int:
    """The channels that one message of `size` bytes is spread over."""
    total, most = setup.p2p_channels()
    count = most
    while count * setup.n > total and count > 1:
        count //= 2
    smallest, largest = (step(setup) / 2, step(setup)) if setup.nodes > 1 else (step(setup) / 8, step(setup) * 32)
    count = min(count, max(1, math.ceil(size / smallest)))
    while size / count > largest and count <= most // 2:
        count *= 2
    return count


def grouped(peers: Peers, setup: Setup, c: Values) -> float:
    """Time [us] from the start of the kernel until the busiest GPU has sent and received all of its messages."""
    total, _ = setup.p2p_channels()
    count = channels_of_peer(setup, peers.size)
    inside = 0.0
    across = 0.0
    if peers.local:
        inside = protocols.hop_latency(setup, SIMPLE, c) + _inside(peers, setup, c, min(total, count * peers.local))
        inside += _fill(peers, setup, c, count)
    if peers.remote:
        across = c["p2p_network"] + _across(peers, setup, c, min(total, count * peers.remote))
    return c["launch"] + protocols.either(inside, across, sharpness=protocols.SHARP)


def on_host(peers: Peers, c: Values) -> float:
    """Time [us] in which the host collects the messages of a group, before it launches the kernel."""
    return c["p2p_peer"] * (peers.local + peers.remote)


def injected(peers: Peers, setup: Setup, c: Values) -> float:
    """Time [us] in which the host copies short messages from the GPU into a Slingshot NIC; longer ones need no copy."""
    return peers.remote * c["p2p_inject"] if setup.network == "slingshot" and peers.size <= _INJECTED else 0.0


def _inside(peers: Peers, setup: Setup, c: Values, channels: int) -> float:
    rate = setup.nvlink * c["nvlink_efficiency"]
    if peers.local == 1:
        rate = min(rate, setup.pair_rate * c["nvlink_efficiency"])
    elif setup.wiring == "cube_mesh":
        # Three of seven peers share no link with the GPU; their messages cross two links.
        rate *= (peers.local + 1) / (peers.local + 1 + 3)
    return peers.size * peers.local * US_PER_BYTE_AT_GB / min(rate, c["p2p_channel"] * channels)


def _fill(peers: Peers, setup: Setup, c: Values, count: int) -> float:
    """Time [us] of the first step of a channel: the receiver copies it while the sender sends the next."""
    return min(peers.size / count, step(setup)) * US_PER_BYTE_AT_GB / c["p2p_channel"]


def _across(peers: Peers, setup: Setup, c: Values, channels: int) -> float:
    size = peers.size * peers.remote
    # A GPU that sends alone uses its own NIC, or all NICs if it is the only GPU of its server.
    nic = setup.nic if peers.sharing == 1 < setup.per_node else setup.node_network / peers.sharing
    messages = peers.remote * max(1.0, peers.size / step(setup))
    wire = size * US_PER_BYTE_AT_GB / (nic * c["network_efficiency"]) + messages * c["p2p_message"]
    spread = size * US_PER_BYTE_AT_GB / (c["p2p_network_channel"] * channels)
    return protocols.either(wire, spread, messages * c["message"], sharpness=protocols.SHARP)
