"""Max pooling: e_bf = the element-wise maximum of v_i over the ids i of field f in sample b; 0 for a bag without ids.

MAX is a commutative monoid like SUM, so any placement of rows works, including by hash. Each of two rounds sends F D
floats for each sample:

    round     m[b, f] = max_p m_p[b, f],  m_p the maximum over owned ids          AllReduce(MAX), no backward message
    partial   m_p where it equals m, else 0                                       [B, F * D], AllReduce(SUM)
    backward  de_bf goes to the owner of the largest value; local, because only that owner's partial is not 0

The second round repeats the values of m, but being a sum it lets autograd route the gradient to the owner of the
maximum. If two ids had exactly equal floats, both would be added; rows drawn from a normal distribution avoid that.

Source: Rong et al., SIGIR 2020 (any commutative monoid); derived here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.substitution.base import Local
from des_ref.substitution.operand import MaxOverWorkers, Operand


class MaxPool(Operand):
    """The operand under max pooling."""

    def partial(self, local: Local, max_over_workers: MaxOverWorkers) -> Tensor:
        local_max = self._max_by_bag(local.v, local)  # [B * F, D]
        global_max = max_over_workers(local_max.detach().view(local.owned.samples, -1)).view_as(local_max)
        is_max = (local_max == global_max) & torch.isfinite(global_max)  # -inf in empty bags
        return torch.where(is_max, local_max, torch.zeros_like(local_max)).view(local.owned.samples, -1)
