"""Collectives in the middle of local work, which they cut into legs; each leg is an op of the plan.

    local_partials -> round_1 -> local_partials_1 -> ... -> partials
    local_backward -> round_L_grad -> local_backward_L -> ... -> round_1_grad -> local_backward_1

The sum of a round feeds *different* computation on each worker, so each worker computes only a partial sum of its
gradient, and backward is one more AllReduce. (The rule: the backward of an AllReduce is the identity if and only if the
sum feeds replicated computation only.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from des_ref.comm import Comm
from des_ref.strategies.base import Marks
from dessim.trace.schema import Phase


class MidReductions:
    """The rounds of one worker. Operators call `sum` and `max`; `legs` surrounds the work that may call them."""

    def __init__(self, comm: Comm) -> None:
        self._comm = comm
        self._count = 0
        self._marks: Marks | None = None
        self._name = ""
        self._phase = Phase.FORWARD
        self._leg: AbstractContextManager[None] | None = None

    @contextmanager
    def legs(self, marks: Marks, name: str, phase: Phase) -> Iterator[None]:
        """Mark segment `name`, and segment `name`_i after round i. Outside of it (prediction) rounds are unmarked."""
        self._marks = marks
        self._name = name
        self._phase = phase
        self._open(name)
        try:
            yield
        finally:
            self._close()
            self._marks = None

    def restart(self) -> None:
        """Number rounds from 1 again."""
        self._count = 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The next round: the sum over workers of `tensor` [B, r]."""
        self._count += 1
        return _SumFeedingShards.apply(tensor, self, self._count)

    def max(self, tensor: Tensor) -> Tensor:
        """The next round: the element-wise maximum over workers of `tensor` [B, r], a constant for autograd."""
        self._count += 1
        total = tensor.clone()
        self.run(f"round_{self._count}", self._count, total, take_max=True)
        return total

    def run(self, name: str, number: int, tensor: Tensor, take_max: bool = False) -> None:
        """AllReduce `tensor` in place, between two legs."""
        self._close()
        all_reduce = self._comm.all_reduce_max if take_max else self._comm.all_reduce
        all_reduce(name, tensor).wait()
        if self._marks is not None:
            self._open(f"{self._name}_{number}")

    def _open(self, name: str) -> None:
        assert self._marks is not None
        self._leg = self._marks.segment(name, self._phase)
        self._leg.__enter__()

    def _close(self) -> None:
        if self._leg is not None:
            self._leg.__exit__(None, None, None)
            self._leg = None


class _SumFeedingShards(torch.autograd.Function):
    """AllReduce in forward and in backward."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rounds: MidReductions, number: int) -> Tensor:
        ctx.rounds = rounds
        ctx.number = number
        total = tensor.clone()
        rounds.run(f"round_{number}", number, total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        total = grads[0].clone()
        ctx.rounds.run(f"round_{ctx.number}_grad", ctx.number, total)
        return total, None, None
