"""A ReduceScatter made of messages between single ranks, where gloo has none.

PyTorch's gloo sums the whole input everywhere and keeps a chunk: twice the bytes. Here each rank sends every other one
its chunk, and adds up what it gets. All receives are posted before any send: a rank that posts a send first queues its
"ready to receive" behind that send's data, and the two of a pair then take turns (dessim/collectives/gloo.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Summing:
    """A ReduceScatter under way; `wait` adds up, in the order of ranks, so that the sum is always the same."""

    def __init__(self, out: Tensor, tensor: Tensor, group: Any) -> None:
        """`out` [c, ...] becomes this rank's chunk of the sum of the ranks' `tensor` [N * c, ...]."""
        n, rank = dist.get_world_size(group), dist.get_rank(group)
        mine = tensor.contiguous().view(n, *out.shape)
        self._out, self._mine = out, mine  # what is sent must stay until it is
        self._chunks = [mine[rank] if other == rank else torch.empty_like(mine[rank]) for other in range(n)]
        others = [(rank + turn) % n for turn in range(1, n)]
        self._works = [dist.irecv(self._chunks[other], group=group, group_src=other) for other in reversed(others)]
        self._works += [dist.isend(mine[other], group=group, group_dst=other) for other in others]

    def wait(self) -> None:
        for work in self._works:
            work.wait()
        first, *rest = self._chunks
        self._out.copy_(first) if not rest else torch.add(first, rest[0], out=self._out)
        for chunk in rest[1:]:
            self._out += chunk


def reduce_scatter(out: Tensor, tensor: Tensor, group: Any = None, async_op: bool = True) -> Summing:
    """Called as torch's collectives are; always asynchronous."""
    return Summing(out, tensor, group)
