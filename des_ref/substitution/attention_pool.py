"""Softmax-attention pooling: e_bf = sum_i p_i v_i over the ids i of field f in sample b, p = softmax_i(a . v_i).

The softmax's quotient is two sums, so rows may live anywhere (hash placement). 1 + (D + 1) floats a bag, two rounds:

    round     m[b, f] = max over ids of a . v_i               AllReduce(MAX) [B, F]: exp must not overflow
    partial   sum over owned ids of (e^{s_i - m} v_i, e^{s_i - m}),  s_i = a . v_i               [B, F * (D + 1)]
    finish    the quotient; 0 for a bag without ids
    backward  m cancels in the quotient, so it is a constant; dv_i is local; da is a partial sum and all-reduced (tiny)

Source: derived here, as the softmax of FlashAttention's blocks; checked in float64 by the tests.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from des_ref.substitution.base import Local
from des_ref.substitution.layers import linear_weights
from des_ref.substitution.operand import Largest, Operand


class AttentionPool(Operand):
    shared = ("a",)

    def __init__(self, fields: int, width: int, generator: torch.Generator) -> None:
        super().__init__(fields, width)
        self.wire = fields * (width + 1)
        self.a = nn.Parameter(linear_weights(1, width, generator)[0])

    def partial(self, local: Local, largest: Largest) -> Tensor:
        scores = (local.v @ self.a)[:, None]
        mine = self._highest(scores.detach(), local)
        shift = largest(mine.view(local.held.samples, -1)).view_as(mine)
        weight = (scores - shift.index_select(0, local.held.bag)).exp()
        return self._summed(torch.cat([weight * local.v, weight], dim=1), local).flatten(1)

    def finish(self, sums: Tensor) -> Tensor:
        bags = sums.unflatten(1, (self.fields, self.width + 1))
        total = bags[:, :, -1:]
        return bags[:, :, :-1] / torch.where(total > 0, total, torch.ones_like(total))
