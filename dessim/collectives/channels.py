"""Ring with one channel a GPU of the node: rings that differ in where they leave the node.

With one ring only one GPU of each node sends to the next node, so one NIC works and the others idle. NCCL therefore
lays several rings ("channels") over the same ranks and rotates their order inside the node: channel c enters every node
at local GPU c, goes round, and leaves from local GPU c - 1. Each channel carries 1/k of the data (NCCL
src/graph/rings.cc, src/graph/connect.cc).

What k-1 of the channels send to the same neighbour is one message here: channels run side by side on a GPU and do not
wait for each other's overhead.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dessim.collectives.schedule import Layout, Stage


def channel_reduce_scatter(layout: Layout, size: float) -> Iterator[Stage]:
    """n-1 stages; rank r ends with its share of every channel."""
    yield from _rings(layout, size, reduce=True, shift=1)


def channel_all_gather(layout: Layout, size: float) -> Iterator[Stage]:
    """n-1 stages."""
    yield from _rings(layout, size, reduce=False, shift=0)


def channel_all_reduce(layout: Layout, size: float) -> Iterator[Stage]:
    """2(n-1) stages; in each a rank passes S/n on: 1/k of it, or (k-1)/k, to the next node or GPU."""
    yield from channel_reduce_scatter(layout, size)
    yield from channel_all_gather(layout, size)


def _rings(layout: Layout, size: float, reduce: bool, shift: int) -> Iterator[Stage]:
    """In channel c the rank at position p passes on the share of the rank at position p - shift - t."""
    n, k = layout.n, layout.per_node
    if n < 2:
        return
    node, local = np.divmod(np.arange(n, dtype=np.int64), k)
    after = (local + 1) % k
    inside, across = node * k + after, (node + 1) % (n // k) * k + after
    channel = np.arange(k)

    def carries(t: int) -> list[list[int]]:
        # Rank (node, l) crosses to the next node in the channel that entered at l + 1.
        crosses = local[:, None] == (channel - 1) % k
        at = (node[:, None] * k + (local[:, None] - channel) % k - shift - t) % n
        owner = at // k * k + (channel + at % k) % k
        pieces = owner * k + channel
        stay = [row[~leaves].tolist() for row, leaves in zip(pieces, crosses, strict=True)]
        leave = [row[leaves].tolist() for row, leaves in zip(pieces, crosses, strict=True)]
        return [*(stay if k > 1 else []), *leave]

    ranks = np.arange(n, dtype=np.int64)
    one = np.full(n, size / n / k)
    yield Stage(
        pattern=("channels", k),
        src=np.concatenate([ranks, ranks]) if k > 1 else ranks,
        dst=np.concatenate([inside, across]) if k > 1 else across,
        size=np.concatenate([one * (k - 1), one]) if k > 1 else one,
        repeat=n - 1,
        reduce=reduce,
        carries=carries,
        pieces=n * k,
    )
