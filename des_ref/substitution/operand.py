"""The honest fallback: an operator that does not separate gets the pooled vectors of all fields.

A product between two fields that live on different workers is no sum of what each of them can compute. For such
operators (DLRM's dot, PNN's inner products, CIN, a full DCN-v2, any head of your own) only lookup and pooling are
substituted, K = F D floats a sample:

    partial   e_p[b, f] = sum over owned ids of field f of v_i                    [B, F * D]
    finish    the operator itself, on e = sum_p e_p, above the sums
    backward  dv_i = sum_b de_bf, local

The operand rides in the reduced buffer once, whatever number of operators read it; an mlp beside them reads it too,
rather than send its own H1 floats and its dW1. max_pool.py and attention_pool.py are operands of other pooling.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from des_ref.substitution.base import Bags, Local

Largest = Callable[[Tensor], Tensor]  # [B, r] -> its element-wise maximum over workers


class Operand(nn.Module):
    """Sums or means. `wire` floats a sample in the reduced buffer; `shared` names parameters that partials read."""

    shared: tuple[str, ...] = ()

    def __init__(self, fields: int, width: int) -> None:
        super().__init__()
        self.fields, self.width, self.wire = fields, width, fields * width

    def partial(self, local: Local, largest: Largest) -> Tensor:
        """[B, wire]: this worker's summand; `largest` may be asked for maxima over workers first."""
        return local.bags.flatten(1)

    def from_bags(self, bags: Bags) -> Tensor:
        """[b, wire] from whole bags."""
        return bags.x.flatten(1)

    def finish(self, sums: Tensor) -> Tensor:
        """[b, F, D]."""
        return sums.unflatten(1, (self.fields, self.width))

    def _summed(self, terms: Tensor, local: Local) -> Tensor:
        """[B, F, r]: terms [n, r] of the occurrences, added up over each bag."""
        held = local.held
        bags = terms.new_zeros(held.samples * self.fields, terms.shape[1])
        return bags.index_add(0, held.bag, terms).view(held.samples, self.fields, -1)

    def _highest(self, terms: Tensor, local: Local) -> Tensor:
        """[B * F, r]: the largest of terms [n, r] in each bag; -inf where this worker holds none of its ids."""
        none = terms.new_full((local.held.samples * self.fields, terms.shape[1]), float("-inf"))
        index = local.held.bag[:, None].expand_as(terms)
        return none.scatter_reduce(0, index, terms, "amax", include_self=True)
