"""The protocols LL, LL128 and Simple: wire overhead, chunks, channels and threads, and the time of a hop.

LL stores 4 bytes of data with 4 of flag, LL128 120 bytes with 8. A receiver polls the data themselves, so a hop inside
a server passes on each line as it arrives. Simple moves a whole slice and then posts a step. Sources: NCCL
src/include/device.h and src/device/prims_ll.h, prims_ll128.h, prims_simple.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dessim.collectives.nccl.setup import Setup

Values = Mapping[str, float]
"""Constants of the model on a set-up, in us and GB/s (`constants.values`)."""
US_PER_BYTE_AT_GB = 1e-3
"""Time [us] that a byte takes at 1 GB/s."""
_SLICES = 2
"""Slices of a chunk in a ring with Simple: ALLREDUCE_CHUNKSTEPS / ALLREDUCE_SLICESTEPS, src/include/collectives.h."""
_LL_LINE = 8
"""Bytes of data that a thread moves at a time with LL: src/device/prims_ll.h."""
_LL_THREADS = (96.0, 512.0)
"""Fewest (three warps) and most threads of a channel with LL: src/enqueue.cc, NCCL_LL_MAX_NTHREADS."""
SHARPNESS = 4.0
SHARP = 8.0
"""The `sharpness` of times of which the longer hides nearly all of the shorter: slices of Simple, p2p messages."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """A protocol: a byte of data takes `wire` bytes on the wire.

    A step moves `chunk` bytes in a ring, `tree_chunk` bytes in a tree. A block has `threads`. NCCL adds channels while
    each thread has at least `threshold` bytes (src/include/comm.h). `burst` bytes are moved before the first of them is
    passed on; all of a slice with Simple.
    """

    name: str
    wire: float
    chunk: int
    tree_chunk: int
    threads: int
    threshold: int
    burst: float


LL = Protocol("ll", wire=2.0, chunk=32 << 10, tree_chunk=32 << 10, threads=512, threshold=8, burst=4096.0)
LL128 = Protocol("ll128", wire=16 / 15, chunk=576_000, tree_chunk=576_000, threads=640, threshold=8, burst=38_400.0)
SIMPLE = Protocol(
    "simple", wire=1.0, chunk=2 << 20, tree_chunk=512 << 10, threads=512, threshold=64, burst=float("inf")
)
PROTOCOLS = (LL, LL128, SIMPLE)
"""Chunks are an eighth of the buffers of 512 KiB, 4.7 MiB and 4 MiB; Simple's rings take four of them: src/init.cc."""


def either(*times: float, sharpness: float = SHARPNESS) -> float:
    """A smooth maximum of times that overlap: near the largest, a little above it where two are about equal."""
    longest = max(times)
    if longest <= 0:
        return 0.0
    return float(longest * sum((time / longest) ** sharpness for time in times) ** (1 / sharpness))


@dataclass(frozen=True, slots=True)
class Lanes:
    """The channels in use: their `count`, not rounded, and the bytes (`size`) and `threads` of each."""

    protocol: Protocol
    count: float
    size: float
    threads: float

    @classmethod
    def of(
        cls, setup: Setup, protocol: Protocol, size: float, *, tree: bool = False, limit: int | None = None
    ) -> Lanes:
        """The channels for S = `size` bytes, at most `limit`.

        NCCL removes channels while a thread has fewer bytes than its threshold (src/enqueue.cc). The count is not
        rounded, so that a few bytes more never change the time by that of a whole channel.
        """
        threshold = protocol.threshold * (setup.n if protocol is LL and not tree else 1)
        most = setup.channels if limit is None else limit
        count = min(float(most), max(1.0, size / (protocol.threads * threshold)))
        threads = min(_LL_THREADS[1], max(_LL_THREADS[0], size / (count * threshold)))
        return cls(protocol, count, size / count, threads)


def call(protocol: Protocol, channels: float, c: Values) -> float:
    """Time [us] of a call: its launch, and the work of every channel beyond the first."""
    extra = c["launch_ll128"] if protocol is LL128 else c["launch_simple"] if protocol is SIMPLE else 0.0
    return c["launch"] + extra + c["launch_channel"] * (channels - 1)


def hop_latency(setup: Setup, protocol: Protocol, c: Values) -> float:
    """Time [us] until the first byte of a step has arrived at the next GPU of the server."""
    return c[f"hop_{protocol.name}"] * (1.0 if setup.has_nvlink else c["hop_pcie"])


def moving(setup: Setup, lanes: Lanes, chunk: float, c: Values, share: float = 1.0) -> float:
    """Time [us] in which a channel moves a chunk. Its threads and its part of NVLink limit it.

    A channel of a tree reaches `share` of the rate of one of a ring.
    """
    protocol = lanes.protocol
    own = chunk * US_PER_BYTE_AT_GB / (c[f"channel_{protocol.name}"] * share)
    # Across servers one channel in g leaves a GPU through the NIC, not over NVLink.
    inside = lanes.count * (1.0 if setup.nodes == 1 else 1 - 1 / setup.per_node)
    link = chunk * protocol.wire * inside * US_PER_BYTE_AT_GB / (setup.nvlink * c["nvlink_efficiency"])
    if protocol is not LL:
        return either(own, link, sharpness=8.0 if protocol is SIMPLE else 1.5)
    iterations = max(chunk / (_LL_LINE * lanes.threads), min(1.0, chunk / 512))
    return either(own, link, sharpness=1.5) + iterations * c["iteration_ll"]


def on_network(setup: Setup, lanes: Lanes, chunk: float, c: Values) -> float:
    """Time [us] in which the NICs of a server send one chunk of a channel, while all channels share them."""
    rate = setup.node_network * c["network_efficiency"] / lanes.count
    return chunk * lanes.protocol.wire * US_PER_BYTE_AT_GB / rate


def posts(setup: Setup, lanes: Lanes, c: Values) -> float:
    """Time [us] of a proxy thread for one message of each channel that it serves."""
    return c["message"] * max(1.0, lanes.count / setup.per_node)


def slices(protocol: Protocol) -> int:
    """The slices of a chunk that are sent one by one; 1 but for Simple."""
    return _SLICES if protocol is SIMPLE else 1


def first_part(protocol: Protocol, chunk: float) -> float:
    """The share of a chunk that is moved before the first byte is passed on."""
    return min(1.0, protocol.burst / chunk) if chunk > 0 else 1.0
