"""Where a group of GPUs runs, as far as NCCL's choices depend on it: architecture, wiring of the servers, NICs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

ARCHITECTURES = ("volta", "ampere", "hopper", "blackwell")
WIRINGS = ("switched", "pairwise", "cube_mesh", "pcie")
"""How the GPUs of a server are joined: by NVSwitches, by NVLinks of every pair, by a hybrid cube mesh, or by PCIe."""
MAX_CHANNELS = 64
"""NCCL src/include/device.h, MAXCHANNELS."""
_NVLINK = {"volta": 20.0, "ampere": 20.0, "hopper": 20.6, "blackwell": 40.1}
"""Payload rate [GB/s] of a link: NCCL src/graph/topo.h, SM70_NVLINK_BW and so on."""
_P2P_NETWORK_CHANNEL = 14
"""Network rate [GB/s] for which NCCL gives a peer one channel: src/graph/paths.cc, NCCL_P2P_PER_CHANNEL_NET_BW."""
_P2P_WORKS_PER_BATCH = 8
"""Messages that a channel runs at the same time: NCCL src/include/device.h, NCCL_MAX_DEV_WORK_P2P_PER_BATCH."""


@dataclass(frozen=True, slots=True)
class Setup:
    """`n` GPUs of one architecture on `nodes` servers, at most `per_node` on each.

    `nvlink` [GB/s] is the payload rate of a GPU to the others of its server (PCIe for the wiring `pcie`). A server has
    `nics` NICs of `nic` [GB/s] each for these GPUs; `network` is the kind of network (`ib`, `roce`, `tcp`, ...).
    `nvls` says that the NVSwitch sums and multicasts, `sharp` that the fabric does. `version` is the NCCL release whose
    tables choose. One process drives `gpus_per_process` GPUs, as `nccl-tests -g` sets.
    """

    architecture: str
    n: int
    nodes: int
    per_node: int
    nvlink: float
    wiring: str = "switched"
    nics: int = 1
    nic: float = 0.0
    network: str = "none"
    nvls: bool = False
    sharp: bool = False
    amd: bool = False
    version: str = "2.29"
    gpus_per_process: int = 1

    @property
    def release(self) -> tuple[int, ...]:
        """The release to compare with, such as (2, 18)."""
        return _release(self.version)

    @property
    def old(self) -> bool:
        """Whether the release is older than 2.12: other tables, and work read from the host's memory."""
        return self.release < (2, 12)

    @property
    def has_nvlink(self) -> bool:
        return self.wiring != "pcie"

    @property
    def node_network(self) -> float:
        """Rate [GB/s] of all NICs of a server together."""
        return self.nics * self.nic

    @property
    def searched_channels(self) -> int:
        """The rings that NCCL's search finds, before it doubles them."""
        return max(1, self.channels // (4 if self._doubled_again else 2))

    @property
    def channels(self) -> int:
        """The channels of rings and trees: two a NIC across servers, from Hopper on four up to 16 in all.

        Inside a server 24 on NVSwitches, 12 on a V100, 2 on PCIe, as NCCL's logs show (`coll channels`). Sources: NCCL
        src/graph/connect.cc, ncclTopoPostset, for doubling; src/graph/search.cc for the number of rings.
        """
        if self.nodes == 1:
            return 2 if not self.has_nvlink else 12 if self.architecture == "volta" else 24
        channels = 2 * self.nics * (2 if self._doubled_again else 1)
        return max(1, min(channels, 32))

    @property
    def _doubled_again(self) -> bool:
        """Hopper and later have at least 16 channels across servers: src/graph/connect.cc, "<8 PPN"."""
        return self.nodes > 1 and self.architecture in ("hopper", "blackwell") and 2 * self.nics < 16

    def p2p_channels(self) -> tuple[int, int]:
        """All channels for messages between two ranks, and those of one peer: src/graph/paths.cc.

        Both are powers of two. With many ranks across servers a peer has fewer, so that all fit one round.
        """
        total = min(MAX_CHANNELS, _power_of_two(self.channels))
        per_peer = MAX_CHANNELS
        if self.per_node > 1:
            per_peer = 2 * max(1, int(self.pair_rate / _NVLINK[self.architecture])) if self.has_nvlink else 2
        if self.nodes > 1:
            share = self.node_network / self.per_node
            per_peer = min(per_peer, max(2, math.ceil(share / _P2P_NETWORK_CHANNEL)))
        per_peer = min(total, _power_of_two(per_peer))
        if self.nodes > 1 and not self.old:
            while per_peer * math.ceil(self.n / _P2P_WORKS_PER_BATCH) > total and per_peer > 1:
                per_peer //= 2
        return total, per_peer

    @property
    def pair_rate(self) -> float:
        """Rate [GB/s] between two GPUs of a server: all of it through a switch, else the links of the pair."""
        if self.wiring == "pairwise":
            return self.nvlink / max(1, self.per_node - 1)
        return self.nvlink / 3 if self.wiring == "cube_mesh" else self.nvlink


@lru_cache
def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _power_of_two(value: int) -> int:
    return 1 << max(0, math.ceil(math.log2(max(1, value))))
