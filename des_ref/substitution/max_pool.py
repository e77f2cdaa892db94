"""Max pooling: e_bf = the element-wise maximum of v_i over the ids i of field f in sample b; 0 for a bag without ids.

MAX is a commutative monoid like SUM, so rows may live anywhere (hash placement). F D floats a sample, two rounds:

    round     m[b, f] = max_p m_p[b, f],  m_p the maximum over owned ids          AllReduce(MAX), nothing sent back
    partial   m_p where it is m, else 0                                           [B, F * D], AllReduce(SUM)
    backward  de_bf goes to the owner of the largest, local: only its partial is not 0

The second round could be saved by one who keeps m; as a sum it also carries the gradient back to the one that won.
Equal floats of different ids would each add their own; with rows drawn from a normal distribution that does not happen.
Source: Rong et al., SIGIR 2020 (any commutative monoid); derived here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.substitution.base import Local
from des_ref.substitution.operand import Largest, Operand


class MaxPool(Operand):
    def partial(self, local: Local, largest: Largest) -> Tensor:
        mine = self._highest(local.v, local)
        winner = largest(mine.detach().view(local.held.samples, -1)).view_as(mine)
        won = (mine == winner) & torch.isfinite(winner)
        return torch.where(won, mine, torch.zeros_like(mine)).view(local.held.samples, -1)
