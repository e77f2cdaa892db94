"""Inner products of all pairs of fields with an mlp above them: the interaction of DLRM and of PNN.

    z_b = ( <e_bf, e_bg> for all fields f < g ),    y = mlp(z)             dot     DLRM (Naumov et al., 2019)
                                                    y = mlp(concat(e, z))  inner   IPNN (Qu et al., ICDM 2016)

All inputs here are categorical, so DLRM's bottom mlp, which embeds continuous inputs, is left out. Products of two
fields do not separate, so the operand is the pooled vectors of all fields (operand.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor, nn

from des_ref.substitution.base import Operator, Plain
from des_ref.substitution.layers import Tower, linear_weights, plain_tower


class Dot(Operator):
    """`with_vectors`: whether the mlp also reads the pooled vectors themselves."""

    def __init__(
        self,
        fields: int,
        width: int,
        widths: tuple[int, ...],
        dropout: float,
        with_vectors: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.hidden = widths
        self.dropout = dropout
        self.with_vectors = with_vectors
        inputs = fields * (fields - 1) // 2 + (fields * width if with_vectors else 0)
        self.first = nn.Parameter(linear_weights(widths[0], inputs, generator))
        self.tower = Tower(widths, generator)

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        i, j = torch.triu_indices(sums.shape[1], sums.shape[1], offset=1, device=sums.device)
        x = torch.bmm(sums, sums.transpose(1, 2))[:, i, j]
        if self.with_vectors:
            x = torch.cat([sums.flatten(1), x], dim=1)
        return self.tower(x @ self.first.T, masks)

    def reference(self, plain: Plain, weights: Mapping[str, Tensor], masks: list[Tensor] | None) -> Tensor:
        """One pair of fields at a time."""
        e = plain.pooled()
        columns = list(e.flatten(1).T) if self.with_vectors else []
        columns += [(e[:, f] * e[:, g]).sum(dim=1) for f, g in combinations(range(plain.fields), 2)]
        first, *layers = weights.values()
        return plain_tower(torch.stack(columns, dim=1) @ first.T, layers, masks)
