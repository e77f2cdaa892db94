"""The fallback for operators that do not separate: the pooled vectors of all fields are sent instead.

A product of two fields on different workers is not a sum of terms that each of them can compute. For such operators
(DLRM's dot, PNN's inner products, CIN, full-rank DCN-v2, user-defined heads) only lookup and pooling are substituted,
with K = F D floats for each sample:

    partial   e_p[b, f] = sum over owned ids of field f of v_i                    [B, F * D]
    finish    the operator itself, on e = sum_p e_p, above the sums
    backward  dv_i = sum_b de_bf, local

The operand is in the reduced buffer once, however many operators read it. An mlp in the same model reads it too instead
of sending its own H1 floats and its dW1. max_pool.py and attention_pool.py are operands with other pooling.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from des_ref.substitution.base import Bags, Local
from des_ref.substitution.sums import maxima_of_neighbours, sums_of_neighbours

MaxOverWorkers = Callable[[Tensor], Tensor]  # [B, r] -> its element-wise maximum over workers


class Operand(nn.Module):
    """Sum or mean pooling.

    `wire` is the number of floats for each sample in the reduced buffer; `shared` names parameters that partials read.
    `uneven` are the widths of the fields' vectors where the model's vectors differ in width.
    """

    shared: tuple[str, ...] = ()

    def __init__(self, fields: int, width: int, uneven: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.fields = fields
        self.width = width
        self.wire = sum(uneven) if uneven is not None else fields * width
        self._uneven = uneven is not None

    def partial(self, local: Local, max_over_workers: MaxOverWorkers) -> Tensor:
        """[B, wire]: this worker's summand; some poolings first need a maximum over workers."""
        return local.concatenated

    def from_bags(self, bags: Bags) -> Tensor:
        """[b, wire] from whole bags."""
        return bags.x.flatten(1)

    def finish(self, sums: Tensor) -> Tensor:
        """[b, F, D]; [b, floats] where vectors differ in width."""
        return sums if self._uneven else sums.unflatten(1, (self.fields, self.width))

    def _sum_by_bag(self, terms: Tensor, local: Local) -> Tensor:
        """[B, F, r]: `terms` [n, r] of the occurrences, added up over each bag."""
        owned = local.owned
        return sums_of_neighbours(terms, owned.by_bag).view(owned.samples, self.fields, -1)

    def _max_by_bag(self, terms: Tensor, local: Local) -> Tensor:
        """[B * F, r]: the maximum of `terms` [n, r] over each bag; -inf where this worker owns none of its ids."""
        return maxima_of_neighbours(terms, local.owned.by_bag)
