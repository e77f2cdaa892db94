"""The protocols LL, LL128 and Simple: wire overhead, chunks, channels and threads, and the time of a hop.

LL stores 4 bytes of data with 4 of flag, LL128 120 bytes with 8; a receiver polls the data themselves, so that a hop
inside a server passes on lines as they arrive. Simple moves slices and then posts a step. Sources: NCCL
src/include/device.h and src/device/prims_ll.h, prims_ll128.h, prims_simple.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dessim.collectives.nccl.setup import Setup

Values = Mapping[str, float]
"""Constants of the model on a setup, in us and GB/s (`constants.values`)."""
US_PER_BYTE_AT_GB = 1e-3
"""us that a byte takes at 1 GB/s."""
_SLICES = 2
"""Slices of a chunk in a ring with Simple: ALLREDUCE_CHUNKSTEPS / ALLREDUCE_SLICESTEPS, src/include/collectives.h."""
_LL_LINE = 8
"""Bytes of data that a thread moves at a time with LL: src/device/prims_ll.h."""
_LL_THREADS = (96.0, 512.0)
"""Fewest (three warps) and most threads of a channel with LL: src/enqueue.cc, NCCL_LL_MAX_NTHREADS."""
SHARPNESS = 4.0
SHARP = 8.0
"""For times of which the longer hides nearly all of the shorter: slices of Simple, messages between two ranks."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """A protocol: `wire` bytes on the wire a byte of data; steps of rings move `chunk` bytes, of trees `tree_chunk`.

    A block has `threads`; a channel is used while each thread has `threshold` bytes (src/include/comm.h). `burst` bytes
    are moved before the first of them is passed on; all of a slice with Simple.
    """

    name: str
    wire: float
    chunk: int
    tree_chunk: int
    threads: int
    threshold: int
    burst: float


LL = Protocol("ll", 2.0, 32 << 10, 32 << 10, 512, 8, 4096.0)
LL128 = Protocol("ll128", 16 / 15, 576_000, 576_000, 640, 8, 38_400.0)
SIMPLE = Protocol("simple", 1.0, 2 << 20, 512 << 10, 512, 64, float("inf"))
PROTOCOLS = (LL, LL128, SIMPLE)
"""Chunks are an eighth of the buffers of 512 KiB, 4.7 MiB and 4 MiB; Simple's rings take four of them: src/init.cc."""


def either(*times: float, sharpness: float = SHARPNESS) -> float:
    """A time near the largest of several that overlap, a little above it where two are equal."""
    longest = max(times)
    if longest <= 0:
        return 0.0
    return float(longest * sum((time / longest) ** sharpness for time in times) ** (1 / sharpness))


@dataclass(frozen=True, slots=True)
class Lanes:
    """The channels at work, `count`, maybe a fraction, and the bytes of the collective that each carries."""

    protocol: Protocol
    count: float
    size: float
    threads: float

    @classmethod
    def of(
        cls, setup: Setup, protocol: Protocol, size: float, *, tree: bool = False, limit: int | None = None
    ) -> Lanes:
        """NCCL takes a channel away while a thread has less than its threshold of bytes (src/enqueue.cc).

        The count is not rounded, so that a few bytes more never take longer or shorter by a whole channel.
        """
        threshold = protocol.threshold * (setup.n if protocol is LL and not tree else 1)
        most = setup.channels if limit is None else limit
        count = min(float(most), max(1.0, size / (protocol.threads * threshold)))
        threads = min(_LL_THREADS[1], max(_LL_THREADS[0], size / (count * threshold)))
        return cls(protocol, count, size / count, threads)


def call(protocol: Protocol, channels: float, c: Values) -> float:
    """us of a call: its launch, and the work of every channel beyond the first."""
    extra = c["launch_ll128"] if protocol is LL128 else c["launch_simple"] if protocol is SIMPLE else 0.0
    return c["launch"] + extra + c["launch_channel"] * (channels - 1)


def hop_latency(setup: Setup, protocol: Protocol, c: Values) -> float:
    """us until the first byte of a step has arrived at the next GPU of the server."""
    return c[f"hop_{protocol.name}"] * (1.0 if setup.has_nvlink else c["hop_pcie"])


def moving(setup: Setup, lanes: Lanes, chunk: float, c: Values, share: float = 1.0) -> float:
    """us for which a channel moves a chunk: its threads, and its part of NVLink; trees have `share` of the threads."""
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
    """us for which the NICs of a server are busy with one chunk of a channel, all channels sharing them."""
    rate = setup.node_network * c["network_efficiency"] / lanes.count
    return chunk * lanes.protocol.wire * US_PER_BYTE_AT_GB / rate


def posts(setup: Setup, lanes: Lanes, c: Values) -> float:
    """us of a proxy thread for one message of each channel that it serves."""
    return c["message"] * max(1.0, lanes.count / setup.per_node)


def slices(protocol: Protocol) -> int:
    return _SLICES if protocol is SIMPLE else 1


def first_part(protocol: Protocol, chunk: float) -> float:
    """The share of a chunk that is moved before the first byte is passed on."""
    return min(1.0, protocol.burst / chunk) if chunk > 0 else 1.0
