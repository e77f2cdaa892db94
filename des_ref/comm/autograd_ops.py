"""Sums over workers inside an autograd graph, each with the backward that fits the computation it feeds.

`overlap` is called while the collective is in flight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from des_ref.comm.group import Comm


def nothing() -> None:
    """The `overlap` of callers that have no work for the time of the collective."""


class SumFeedingReplicas(torch.autograd.Function):
    """AllReduce with the *identity* as backward: partials [B, K] -> their sum [B, K] on every worker.

    The trap: `torch.distributed.nn.functional.all_reduce` all-reduces the gradient again. That is right when the sum
    feeds *different* computation on each worker. Here it feeds the same replicated tail everywhere, so every worker has
    already computed the whole dL/dT. Since T = sum_p T_p, dL/dT_p = dL/dT; summing N equal copies would make all sparse
    gradients N times too large.
    """

    @staticmethod
    def forward(ctx: Any, partials: Tensor, comm: Comm, name: str, overlap: Callable[[], None] = nothing) -> Tensor:
        ctx.comm = comm
        ctx.name = name
        total = partials.clone()
        handle = comm.all_reduce(name, total)
        overlap()
        handle.wait()
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.comm.gradient(ctx.name, grads[0]), None, None, None


class SumScattered(torch.autograd.Function):
    """ReduceScatter: partials [B, K] -> this worker's [B/N, K] of their sum; backward AllGathers the gradient.

    Each worker holds dL/dT for its own samples only, and dL/dT_p = dL/dT for all of them: gather, do not add.
    """

    @staticmethod
    def forward(
        ctx: Any, partials: Tensor, comm: Comm, name: str, grad_name: str, overlap: Callable[[], None] = nothing
    ) -> Tensor:
        ctx.comm = comm
        ctx.name = name
        ctx.grad_name = grad_name
        own = partials.new_empty(len(partials) // comm.world_size, partials.shape[1])
        handle = comm.reduce_scatter(name, own, partials.detach().contiguous())
        overlap()
        handle.wait()
        return own

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        comm: Comm = ctx.comm
        whole = grads[0].new_empty(len(grads[0]) * comm.world_size, grads[0].shape[1])
        comm.all_gather(ctx.grad_name, whole, grads[0].contiguous()).wait()
        return comm.gradient(ctx.name, whole), None, None, None, None
