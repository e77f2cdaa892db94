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


class WholePool(nn.Module):
    """Pools whole bags; `shared` names parameters whose gradient is a partial sum."""

    shared: tuple[str, ...] = ()

    def forward(self, local: Local) -> Local:
        """Input in which each of the P (sample, field) pairs is a single id, with the pooled vector as its own."""
        owned = local.owned
        return Local(owned.of_pairs(), {"v": self.pooled(local.v, owned.by_pair.group_of, len(owned.pair_bag))})

    def pooled(self, v: Tensor, pair: Tensor, pairs: int) -> Tensor:
        """[P, D] from `v` [n, D] and the `pair` [n] of each occurrence; no pair is empty."""
        raise NotImplementedError


class WholeMax(WholePool):
    """Max pooling of whole bags."""

    def pooled(self, v: Tensor, pair: Tensor, pairs: int) -> Tensor:
        return _max_by_pair(v, pair, pairs)


class WholeAttention(WholePool):
    """Softmax-attention pooling of whole bags, with a learned query `a` [D]."""

    shared = ("a",)

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.a = nn.Parameter(linear_weights(1, width, generator)[0])

    def pooled(self, v: Tensor, pair: Tensor, pairs: int) -> Tensor:
        scores = (v @ self.a)[:, None]
        # The shift keeps exp from overflowing and cancels in the quotient.
        weight = (scores - _max_by_pair(scores.detach(), pair, pairs).index_select(0, pair)).exp()
        sums = v.new_zeros(pairs, v.shape[1] + 1).index_add(0, pair, torch.cat([weight * v, weight], dim=1))
        return sums[:, :-1] / sums[:, -1:]


def _max_by_pair(terms: Tensor, pair: Tensor, pairs: int) -> Tensor:
    """[P, r]: the maximum of `terms` [n, r] over each pair."""
    initial = terms.new_full((pairs, terms.shape[1]), float("-inf"))
    return initial.scatter_reduce(0, pair[:, None].expand_as(terms), terms, "amax")
