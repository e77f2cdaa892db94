"""Inner products of all pairs of fields with an mlp above them: the interaction of DLRM and of PNN.

    z_b = ( <e_bf, e_bg> for all fields f < g ),    y = mlp(z)             dot     DLRM (Naumov et al., 2019)
                                                    y = mlp(concat(e, z))  inner   IPNN (Qu et al., ICDM 2016)

Products of two fields do not separate, so the operand is the pooled vectors of all fields (operand.py). With dense
features the output of the bottom mlp is one more vector, e_b0 (bottom.py), and DLRM's mlp also reads it: concat(e_b0,
z_b).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from des_ref.substitution.base import Operator, Plain
from des_ref.substitution.layers import Tower, linear_weights, plain_tower


class Dot(Operator):
    """`reads`: which of the vectors the mlp reads beside their products; `bottom` is the first."""

    def __init__(
        self,
        fields: int,
        width: int,
        widths: tuple[int, ...],
        *,
        dropout: float,
        reads: Literal["none", "bottom", "all"],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.hidden = widths
        self.dropout = dropout
        self._read = {"none": 0, "bottom": 1, "all": fields}[reads]  # vectors
        inputs = fields * (fields - 1) // 2 + self._read * width
        self.first = nn.Parameter(linear_weights(widths[0], inputs, generator))
        self.tower = Tower(widths, generator)

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        i, j = torch.triu_indices(sums.shape[1], sums.shape[1], offset=1, device=sums.device)
        x = torch.bmm(sums, sums.transpose(1, 2))[:, i, j]
        if self._read:
            x = torch.cat([sums[:, : self._read].flatten(1), x], dim=1)
        return self.tower(x @ self.first.T, masks)

    def reference(self, plain: Plain, weights: Mapping[str, Tensor], masks: list[Tensor] | None) -> Tensor:
        """One pair of fields at a time."""
        e = plain.operand()
        columns = list(e[:, : self._read].flatten(1).T)
        columns += [(e[:, f] * e[:, g]).sum(dim=1) for f, g in combinations(range(e.shape[1]), 2)]
        first, *layers = weights.values()
        return plain_tower(torch.stack(columns, dim=1) @ first.T, layers, masks)
