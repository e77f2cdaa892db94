"""FM over *pooled field vectors*, which is what many frameworks call FM.

    e_bf = sum of v_i over the ids i of field f in sample b
    y_b = sum over fields f < g of <e_bf, e_bg> = ( |S_b|**2 - q_b ) / 2,   S_b = sum_f e_bf,   q_b = sum_f |e_bf|**2

S is a sum over ids, but q is a sum over *fields*: if the ids of a field are spread over workers, |e_f|**2 is not the
sum of the squares of the workers' parts. So whole fields must be on one worker (field placement). K = D + 1:

    partial   S_p[b] = sum over owned fields of e_bf,  q_p[b] = sum over owned fields of |e_bf|**2       [B, D + 1]
    finish    y = (|S|**2 - q) / 2
    backward  de_bf = delta_b (S_b - e_bf): local

Under hash placement the same code would give wrong values, so dessim.workload.model refuses it. As with fm, S and q are
sent in float32 or wider.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

from des_ref.substitution.base import Bags, Local, Operator, Plain
from des_ref.substitution.sums import Groups, sums_of_neighbours


class FmFields(Operator):
    """Pairwise products over pooled field vectors."""

    pairs = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wire = width + 1

    def partial(self, local: Local) -> Tensor:
        e = local.pooled
        owned = local.owned
        terms = torch.cat([e, e.square().sum(dim=1, keepdim=True)], dim=1)
        return sums_of_neighbours(terms, Groups.of(owned.pair_sample, owned.samples))

    def from_bags(self, bags: Bags) -> Tensor:
        return torch.cat([bags.x.sum(dim=1), bags.x.square().sum(dim=(1, 2))[:, None]], dim=1)

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        s = sums[:, :-1]
        q = sums[:, -1]
        return (s.square().sum(dim=1) - q) / 2

    def reference(self, plain: Plain, weights: Mapping[str, Tensor], masks: list[Tensor] | None) -> Tensor:
        """One pair of fields at a time."""
        e = plain.pooled()
        pairs = [(e[:, f] * e[:, g]).sum(dim=1) for f, g in combinations(range(plain.fields), 2)]
        return sum(pairs, e.new_zeros(plain.samples))
