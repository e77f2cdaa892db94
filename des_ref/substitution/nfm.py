"""Bi-interaction pooling of neural factorization machines (He and Chua, SIGIR 2017, equation 4) and their layers.

    f_b = sum over pairs i < j of occurrences in sample b of v_i o v_j       (o: element by element)
        = ( S_b o S_b - Q_b ) / 2     with S_b = sum_i v_i   and   Q_b = sum_i v_i o v_i;      y = mlp(f)

S and Q are sums over ids, so any placement of rows works, including by hash. K = 2D floats are sent for each sample:

    partial   S_p[b], Q_p[b]: the sums over owned ids                    [B, 2D]
    finish    y = mlp((S o S - Q) / 2); the mlp is above the sums, replicated like the tail
    backward  dv_i = sum_b df_b o (S_b - v_i): local, because every worker knows S

As with fm, S o S - Q suffers from cancellation: both are sent in float32 or wider.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from des_ref.substitution.base import Bags, Local, Operator, Plain
from des_ref.substitution.layers import Tower, linear_weights, plain_tower


class Nfm(Operator):
    """Bi-interaction pooling with an mlp of `widths` above it."""

    def __init__(self, width: int, widths: tuple[int, ...], dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.wire = 2 * width
        self.hidden = widths
        self.dropout = dropout
        self.first = nn.Parameter(linear_weights(widths[0], width, generator))
        self.tower = Tower(widths, generator)

    def terms(self, local: Local) -> list[Tensor]:
        v = local.values["v"]
        return [v, v.square()]

    def from_bags(self, bags: Bags) -> Tensor:
        return torch.cat([bags.v.sum(dim=1), bags.squares.sum(dim=1)], dim=1)

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        s, q = sums.chunk(2, dim=1)
        return self.tower((s.square() - q) / 2 @ self.first.T, masks)

    def reference(self, plain: Plain, weights: Mapping[str, Tensor], masks: list[Tensor] | None) -> Tensor:
        """The sum over all pairs of each sample."""
        first, *layers = weights.values()
        pairs = []
        for x in plain.vectors():
            i, j = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
            pairs.append((x[i] * x[j]).sum(dim=0))
        return plain_tower(torch.stack(pairs) @ first.T, layers, masks)
