"""Collectives built from point-to-point messages, where those of PyTorch's gloo are inefficient.

    reduce_scatter  gloo sums the whole input on every rank and keeps a chunk of it: twice the bytes. Here each rank
                    sends every other rank its chunk and adds up the chunks it receives.
    all_gather      Between two ranks. gloo gathers into a temporary buffer and copies it, and the two ranks' messages
                    take turns. Here each rank receives directly into the output. With more ranks gloo's ring is as good
                    on one switch, and it crosses a shared uplink once a stage instead of once for each pair of ranks.

All receives are posted before any send. A rank that posts a send first queues its "ready to receive" behind that send's
data, and the two ranks of a pair then take turns (dessim/collectives/gloo.py). They also take turns on one machine,
where a rank reads or writes a connection but never both at once; two ranks therefore have two process groups, and each
sends over its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class ReduceScatterWork:
    """A ReduceScatter in flight; `wait` adds the chunks up in rank order, so that the sum is deterministic."""

    def __init__(self, out: Tensor, tensor: Tensor, reverse: Any, group: Any) -> None:
        """`out` [c, ...] becomes this rank's chunk of the sum of the ranks' `tensor` [N * c, ...]."""
        n = dist.get_world_size(group)
        rank = dist.get_rank(group)
        mine = tensor.contiguous().view(n, *out.shape)
        self._out = out
        self._mine = mine  # keeps the memory alive until it is sent
        self._chunks = [mine[rank] if other == rank else torch.empty_like(mine[rank]) for other in range(n)]
        self._works = _exchange(self._chunks, mine, group, reverse)

    def wait(self) -> None:
        for work in self._works:
            work.wait()
        first, *rest = self._chunks
        self._out.copy_(first) if not rest else torch.add(first, rest[0], out=self._out)
        for chunk in rest[1:]:
            self._out += chunk


class AllGatherWork:
    """An AllGather between two ranks, in flight."""

    def __init__(self, out: Tensor, tensor: Tensor, reverse: Any, group: Any) -> None:
        """`out` [2 * c, ...] becomes the ranks' `tensor` [c, ...] in rank order."""
        self._mine = tensor.contiguous().view(-1)  # keeps the memory alive until it is sent
        chunks = out.view(2, len(self._mine))
        self._works = _exchange(chunks, [self._mine] * 2, group, reverse)
        chunks[dist.get_rank(group)].copy_(self._mine)

    def wait(self) -> None:
        for work in self._works:
            work.wait()


def _exchange(receives: Sequence[Tensor], sends: Sequence[Tensor], group: Any, reverse: Any) -> list[Any]:
    """Receive `receives[r]` from every other rank r and send it `sends[r]`, all concurrently.

    `reverse`: between two ranks, the group for what rank 1 sends.
    """
    n = dist.get_world_size(group)
    rank = dist.get_rank(group)
    from_rank_1 = group if reverse is None else reverse
    receive_group, send_group = (from_rank_1, group) if rank == 0 else (group, from_rank_1)
    others = [(rank + offset) % n for offset in range(1, n)]
    works = [dist.irecv(receives[other], group=receive_group, group_src=other) for other in reversed(others)]
    return works + [dist.isend(sends[other], group=send_group, group_dst=other) for other in others]


def reduce_scatter(
    out: Tensor, tensor: Tensor, reverse: Any, group: Any = None, async_op: bool = True
) -> ReduceScatterWork:
    """Called like torch's collectives, with the reverse group of two ranks; always asynchronous."""
    return ReduceScatterWork(out, tensor, reverse, group)


def all_gather(out: Tensor, tensor: Tensor, reverse: Any, group: Any = None, async_op: bool = True) -> AllGatherWork:
    """Like `reduce_scatter`; between two ranks only."""
    return AllGatherWork(out, tensor, reverse, group)
