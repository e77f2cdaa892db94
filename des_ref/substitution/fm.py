"""Second-order factorization machine over features (Rendle, ICDM 2010, equation 5; libFM's semantics).

    y_b = sum over pairs i < j of occurrences in sample b of <v_i, v_j>
        = ( |S_b|**2 - q_b ) / 2     with S_b = sum_i v_i   and   q_b = sum_i |v_i|**2

S and q are sums over ids, so any placement of rows works, including by hash. K = D + 1 floats are sent for each sample:

    partial   S_p[b] = sum over owned ids of v_i,  q_p[b] = sum over owned ids of |v_i|**2        [B, D + 1]
    finish    y = (|S|**2 - q) / 2
    backward  dv_i = sum_b delta_b (S_b - v_i): local, because every worker knows S

This is not the FM over *pooled field vectors* that some frameworks call FM. There q contains the norm of a whole
field's sum, which is not additive over ids, so hash placement would give wrong values (docs: DES, section 2).

|S|**2 - q suffers from cancellation: both are sent in float32 or wider, whatever codec the other columns use.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from des_ref.substitution.base import Bags, Local, Operator, Plain


class Fm(Operator):
    """Pairwise products over ids."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wire = width + 1

    def terms(self, local: Local) -> list[Tensor]:
        v = local.values["v"]
        return [v, v.square().sum(dim=1, keepdim=True)]

    def from_bags(self, bags: Bags) -> Tensor:
        return torch.cat([bags.v.sum(dim=1), bags.squares.sum(dim=(1, 2))[:, None]], dim=1)

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        s = sums[:, :-1]
        q = sums[:, -1]
        return (s.square().sum(dim=1) - q) / 2

    def reference(self, plain: Plain, weights: Mapping[str, Tensor], masks: list[Tensor] | None) -> Tensor:
        """Every pair, from one Gram matrix a sample.

        sum over i < j of <v_i, v_j> is the sum over the strict upper triangle of G = X X^T, where X has the vectors of
        one sample. Quadratic in the ids of a sample, in a Python loop: the definition, not the efficient form.
        """
        return torch.stack([torch.triu(x @ x.T, diagonal=1).sum() for x in plain.vectors()])
