"""Softmax-attention pooling: e_bf = sum_i p_i v_i over the ids i of field f in sample b, p = softmax_i(a . v_i).

The softmax is a quotient of two sums, so any placement of rows works, including by hash. Two rounds send 1 + (D + 1)
floats for each bag:

    round     m[b, f] = max over ids of a . v_i, so that exp cannot overflow                      AllReduce(MAX) [B, F]
    partial   sum over owned ids of (e^{s_i - m} v_i, e^{s_i - m}),  s_i = a . v_i                [B, F * (D + 1)]
    finish    the quotient; 0 for an empty bag
    backward  m cancels in the quotient, so it is a constant; dv_i is local; da is a partial sum and is all-reduced
              (D floats)

Source: derived here, like the blockwise softmax of FlashAttention; checked in float64 by the tests.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from des_ref.substitution.base import Local
from des_ref.substitution.layers import linear_weights
from des_ref.substitution.operand import MaxOverWorkers, Operand


class AttentionPool(Operand):
    """The operand under softmax-attention pooling, with a learned query `a` [D]."""

    shared = ("a",)

    def __init__(self, fields: int, width: int, generator: torch.Generator) -> None:
        super().__init__(fields, width)
        self.wire = fields * (width + 1)
        self.a = nn.Parameter(linear_weights(1, width, generator)[0])

    def partial(self, local: Local, max_over_workers: MaxOverWorkers) -> Tensor:
        scores = (local.v @ self.a)[:, None]  # [n, 1]
        local_max = self._max_by_bag(scores.detach(), local)  # [B * F, 1]
        shift = max_over_workers(local_max.view(local.owned.samples, -1)).view_as(local_max)
        weight = (scores - shift.index_select(0, local.owned.bag)).exp()
        return self._sum_by_bag(torch.cat([weight * local.v, weight], dim=1), local).flatten(1)

    def finish(self, sums: Tensor) -> Tensor:
        bags = sums.unflatten(1, (self.fields, self.width + 1))
        total = bags[:, :, -1:]
        return bags[:, :, :-1] / torch.where(total > 0, total, torch.ones_like(total))
