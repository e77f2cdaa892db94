"""Max and softmax-attention pooling of whole bags: where fields live together (field placement), pooling is local.

    max        e_bf = the element-wise maximum of v_i over the ids i of field f in sample b
    attention  e_bf = sum_i p_i v_i,  p = softmax_i(a . v_i)

No round, and whatever works on sums of whole fields works on these too: what crosses the network is the operators' own
K. A bag without ids is 0, as under the other poolings. The gradient of `a` is a partial sum, each worker's of its own
fields. Where ids of a bag are spread by hash: max_pool.py, attention_pool.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from des_ref.substitution.base import Local
from des_ref.substitution.layers import linear_weights


class WholePool(nn.Module):
    """`shared` names parameters whose gradient is a partial sum."""

    shared: tuple[str, ...] = ()

    def forward(self, local: Local) -> Local:
        """The same as if each of the P (sample, field) pairs were one id, whose vector is the pooled one."""
        held = local.held
        return Local(held.of_pairs(), {"v": self.pooled(local.v, held.by_pair.number, len(held.pair_bag))})

    def pooled(self, v: Tensor, pair: Tensor, pairs: int) -> Tensor:
        """[P, D] from v [n, D] of occurrences, each in one of the P pairs; none is empty."""
        raise NotImplementedError


class WholeMax(WholePool):
    def pooled(self, v: Tensor, pair: Tensor, pairs: int) -> Tensor:
        return _largest(v, pair, pairs)


class WholeAttention(WholePool):
    shared = ("a",)

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.a = nn.Parameter(linear_weights(1, width, generator)[0])

    def pooled(self, v: Tensor, pair: Tensor, pairs: int) -> Tensor:
        scores = (v @ self.a)[:, None]
        # The shift cancels in the quotient: exp must not overflow.
        weight = (scores - _largest(scores.detach(), pair, pairs).index_select(0, pair)).exp()
        sums = v.new_zeros(pairs, v.shape[1] + 1).index_add(0, pair, torch.cat([weight * v, weight], dim=1))
        return sums[:, :-1] / sums[:, -1:]


def _largest(terms: Tensor, pair: Tensor, pairs: int) -> Tensor:
    """[P, r]: the largest of terms [n, r] in each pair."""
    none = terms.new_full((pairs, terms.shape[1]), float("-inf"))
    return none.scatter_reduce(0, pair[:, None].expand_as(terms), terms, "amax")
