"""Collectives made of messages between single ranks, where those of PyTorch's gloo are poor.

    reduce_scatter  gloo's sums the whole input everywhere and keeps a chunk: twice the bytes. Here each rank sends
                    every other its chunk, and adds up what it gets
    all_gather      of two ranks: gloo's gathers beside its output and copies all of that, and the halves of what the
                    two send take turns. Here each receives into the output. Of more ranks gloo's ring is as good on one
                    switch, and crosses an uplink that ranks share once a stage, not once for each pair of ranks

All receives are posted before any send: a rank that posts a send first queues its "ready to receive" behind that send's
data, and the two of a pair then take turns (dessim/collectives/gloo.py). They take turns on one machine too, where
a rank reads or writes a connection, but not both at once. So two ranks have two groups, and each sends over its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Summing:
    """A ReduceScatter under way; `wait` adds up, in the order of ranks, so that the sum is always the same."""

    def __init__(self, out: Tensor, tensor: Tensor, second: Any, group: Any) -> None:
        """`out` [c, ...] becomes this rank's chunk of the sum of the ranks' `tensor` [N * c, ...]."""
        n, rank = dist.get_world_size(group), dist.get_rank(group)
        mine = tensor.contiguous().view(n, *out.shape)
        self._out, self._mine = out, mine  # what is sent must stay until it is
        self._chunks = [mine[rank] if other == rank else torch.empty_like(mine[rank]) for other in range(n)]
        self._works = _exchange(self._chunks, mine, group, second)

    def wait(self) -> None:
        for work in self._works:
            work.wait()
        first, *rest = self._chunks
        self._out.copy_(first) if not rest else torch.add(first, rest[0], out=self._out)
        for chunk in rest[1:]:
            self._out += chunk


class Swapping:
    """An AllGather of two ranks under way."""

    def __init__(self, out: Tensor, tensor: Tensor, second: Any, group: Any) -> None:
        """`out` [2 * c, ...] becomes the ranks' `tensor` [c, ...] in rank order."""
        self._mine = tensor.contiguous().view(-1)  # what is sent must stay until it is
        chunks = out.view(2, len(self._mine))
        self._works = _exchange(chunks, [self._mine] * 2, group, second)
        chunks[dist.get_rank(group)].copy_(self._mine)

    def wait(self) -> None:
        for work in self._works:
            work.wait()


def _exchange(gets: Sequence[Tensor], gives: Sequence[Tensor], group: Any, second: Any) -> list[Any]:
    """Receive `gets[r]` from every other rank r and send it `gives[r]`, all at once. `second`: of two ranks, the group
    for what rank 1 sends."""
    n, rank = dist.get_world_size(group), dist.get_rank(group)
    of_rank_0, of_others = group, group if second is None else second
    gets_over, gives_over = (of_others, of_rank_0) if rank == 0 else (of_rank_0, of_others)
    others = [(rank + turn) % n for turn in range(1, n)]
    works = [dist.irecv(gets[other], group=gets_over, group_src=other) for other in reversed(others)]
    return works + [dist.isend(gives[other], group=gives_over, group_dst=other) for other in others]


def reduce_scatter(out: Tensor, tensor: Tensor, second: Any, group: Any = None, async_op: bool = True) -> Summing:
    """Called as torch's collectives are, with the second group of two ranks; always asynchronous."""
    return Summing(out, tensor, second, group)


def all_gather(out: Tensor, tensor: Tensor, second: Any, group: Any = None, async_op: bool = True) -> Swapping:
    """The same, of two ranks."""
    return Swapping(out, tensor, second, group)
