"""Collectives in the middle of local work, and the legs of it that they make, each an op of the plan.

    local_partials -> round_1 -> local_partials_1 -> ... -> partials
    local_backward -> round_L_grad -> local_backward_L -> ... -> round_1_grad -> local_backward_1

The sum of a round feeds *other* computation on each worker, so what each finds for its gradient is a partial sum, and
backward is one more AllReduce. (The rule: identity if and only if the sum feeds replicated computation only.)
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
    """Of one worker. `sum` is what operators call; `legs` is around the work that may call it."""

    def __init__(self, comm: Comm) -> None:
        self._comm = comm
        self._count = 0
        self._marks: Marks | None = None
        self._name, self._phase = "", Phase.FORWARD
        self._leg: AbstractContextManager[None] | None = None

    @contextmanager
    def legs(self, marks: Marks, name: str, phase: Phase) -> Iterator[None]:
        """Segment `name`, and `name`_i after round i. Without it (prediction) rounds run unmarked."""
        self._marks, self._name, self._phase = marks, name, phase
        self._open(name)
        try:
            yield
        finally:
            self._close()
            self._marks = None

    def restart(self) -> None:
        """The next `sum` is round 1."""
        self._count = 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over workers of [B, r], as the next round."""
        self._count += 1
        return _SumFeedingShards.apply(tensor, self, self._count)

    def largest(self, tensor: Tensor) -> Tensor:
        """The element-wise maximum over workers of [B, r], as the next round: a constant, nothing is sent back."""
        self._count += 1
        total = tensor.clone()
        self.run(f"round_{self._count}", self._count, total, largest=True)
        return total

    def run(self, name: str, number: int, tensor: Tensor, largest: bool = False) -> None:
        """AllReduce in place, between two legs."""
        self._close()
        (self._comm.all_reduce_max if largest else self._comm.all_reduce)(name, tensor).wait()
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
    """AllReduce, forward and backward."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rounds: MidReductions, number: int) -> Tensor:
        ctx.rounds, ctx.number = rounds, number
        total = tensor.clone()
        rounds.run(f"round_{number}", number, total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        total = grads[0].clone()
        ctx.rounds.run(f"round_{ctx.number}_grad", ctx.number, total)
        return total, None, None
