"""Max and softmax-attention pooling of whole bags: under field placement, pooling is local.

    max        e_bf = the element-wise maximum of v_i over the ids i of field f in sample b
    attention  e_bf = sum_i p_i v_i,  p = softmax_i(a . v_i)

No extra round is needed, and every operator that works on sums of whole fields works on these vectors too, so only the
operators' own K floats are sent. An empty bag pools to 0, as with the other poolings. The gradient of `a` is a partial
sum over each worker's own fields. For bags whose ids are spread by hash see max_pool.py and attention_pool.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from des_ref.substitution.base import Local
from des_ref.substitution.layers import linear_weights
from des_ref.substitution.sums import Groups, maxima_of_neighbours, sums_of_neighbours


class WholePool(nn.Module):
    """Pools whole bags; `shared` names parameters whose gradient is a partial sum."""

    shared: tuple[str, ...] = ()

    def forward(self, local: Local) -> Local:
        """Input in which each of the P (sample, field) pairs is a single id, with the pooled vector as its own."""
        owned = local.owned
        return Local(owned.of_pairs(), {"v": self.pooled(local.v, owned.by_pair)})

    def pooled(self, v: Tensor, by_pair: Groups) -> Tensor:
        """[P, D] from the `v` [n, D] of the occurrences; no pair is empty."""
        raise NotImplementedError


class WholeMax(WholePool):
    """Max pooling of whole bags."""

    def pooled(self, v: Tensor, by_pair: Groups) -> Tensor:
        return maxima_of_neighbours(v, by_pair)


class WholeAttention(WholePool):
    """Softmax-attention pooling of whole bags, with a learned query `a` [D]."""

    shared = ("a",)

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.a = nn.Parameter(linear_weights(1, width, generator)[0])

    def pooled(self, v: Tensor, by_pair: Groups) -> Tensor:
        scores = (v @ self.a)[:, None]
        # The shift keeps exp from overflowing and cancels in the quotient.
        weight = (scores - maxima_of_neighbours(scores.detach(), by_pair).index_select(0, by_pair.group_of)).exp()
        sums = sums_of_neighbours(torch.cat([weight * v, weight], dim=1), by_pair)
        return sums[:, :-1] / sums[:, -1:]
