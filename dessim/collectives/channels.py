"""Multi-channel ring: one ring per GPU of a node, each leaving the node from a different GPU.

In a single ring only one GPU of each node sends to the next node, so one NIC works and the others idle. NCCL therefore
builds several rings ("channels") over the same ranks and rotates the order inside the node: channel c enters every node
at local GPU c, visits the other GPUs, and leaves from local GPU c - 1. With k GPUs per node each channel carries 1/k of
the data (NCCL src/graph/rings.cc, src/graph/connect.cc).

In each stage k-1 of the channels send to the same neighbour inside the node. They count as one message here, because
channels run concurrently on a GPU and do not wait for each other's overhead.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dessim.collectives.schedule import Layout, Stage


def channel_reduce_scatter(layout: Layout, size: float) -> Iterator[Stage]:
    """n-1 stages; rank r ends with its reduced share of every channel."""
    yield from _rings(layout, size, reduce=True, shift=1)


def channel_all_gather(layout: Layout, size: float) -> Iterator[Stage]:
    """n-1 stages; rank r starts with its share of every channel."""
    yield from _rings(layout, size, reduce=False, shift=0)


def channel_all_reduce(layout: Layout, size: float) -> Iterator[Stage]:
    """2(n-1) stages. In each a rank sends S/n bytes, 1/k of them to the next node and (k-1)/k to the next local GPU."""
    yield from channel_reduce_scatter(layout, size)
    yield from channel_all_gather(layout, size)


def _rings(layout: Layout, size: float, reduce: bool, shift: int) -> Iterator[Stage]:
    """In repetition t and channel c, the rank at position p sends the share of the rank at position p - shift - t."""
    n = layout.n
    k = layout.per_node
    if n < 2:
        return
    node, local = np.divmod(np.arange(n, dtype=np.int64), k)
    next_local = (local + 1) % k
    inside = node * k + next_local
    across = (node + 1) % (n // k) * k + next_local
    channel = np.arange(k)

    def carries(t: int) -> list[list[int]]:
        # Local GPU l sends to the next node in the channel that entered the node at local GPU l + 1.
        crosses = local[:, None] == (channel - 1) % k
        position = (node[:, None] * k + (local[:, None] - channel) % k - shift - t) % n
        owner = position // k * k + (channel + position % k) % k
        pieces = owner * k + channel
        within_node = [row[~leaves].tolist() for row, leaves in zip(pieces, crosses, strict=True)]
        to_next_node = [row[leaves].tolist() for row, leaves in zip(pieces, crosses, strict=True)]
        return [*(within_node if k > 1 else []), *to_next_node]

    ranks = np.arange(n, dtype=np.int64)
    one_channel = np.full(n, size / n / k)
    yield Stage(
        pattern=("channels", k),
        src=np.concatenate([ranks, ranks]) if k > 1 else ranks,
        dst=np.concatenate([inside, across]) if k > 1 else across,
        size=np.concatenate([one_channel * (k - 1), one_channel]) if k > 1 else one_channel,
        repeat=n - 1,
        reduce=reduce,
        carries=carries,
        pieces=n * k,
    )
