"""The cross network of DCN-v2 (Wang et al., WWW 2021, equation 1).

    x_{l+1} = x_0 o (W_l x_l + b_l) + x_l,    y = x_L . w_out,    x_0 = concat_f( e_bf ) in R^(F D)

with full W_l, or W_l = U_l V_l^T of rank r. W_l x_l mixes every field with every other.

With full W_l, or under hash placement, it does not separate and is computed from the pooled operand (operand.py).

With low rank under field placement, worker p holds the parts x_p, U_l[p], V_l[p], b_l[p], w_out[p] of its fields. Only
V_l^T x_l involves the other workers, with r floats for each sample and layer:

    round l   t_l = sum_p V_l[p]^T x_{l,p}                                                                [B, r]
    local     x_{l+1,p} = x_{0,p} o (U_l[p] t_l + b_l[p]) + x_{l,p}
    partial   y_p = x_{L,p} . w_out[p]                                                                    [B, 1]
    backward  t_l feeds *different* computation on each worker, so each computes only a part of dt_l; one more round a
              layer sums the parts. dU, dV, db, dw_out are local.

Source: derived here; checked in float64 by the tests.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from des_ref.substitution.base import Bags, Operator, Plain
from des_ref.substitution.layers import linear_weights


def _stacked(layers: int, rows: int, columns: int, generator: torch.Generator) -> nn.Parameter:
    """[layers, rows, columns]."""
    return nn.Parameter(torch.stack([linear_weights(rows, columns, generator) for _ in range(layers)]))


class CrossV2(Operator):
    """Full or low rank, computed from the `inputs` floats of the operand."""

    def __init__(self, inputs: int, layers: int, rank: int | None, generator: torch.Generator) -> None:
        super().__init__()
        n = inputs
        if rank is None:
            self.w = _stacked(layers, n, n, generator)
        else:
            self.v = _stacked(layers, rank, n, generator)  # V^T
            self.u = _stacked(layers, rank, n, generator)  # U^T
        self.b = nn.Parameter(torch.zeros(layers, n, dtype=torch.float64))
        self.out = nn.Parameter(linear_weights(1, n, generator)[0])
        self._low_rank = rank is not None

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        x_0 = sums.flatten(1)
        x = x_0
        for l, b in enumerate(self.b):
            mixed = (x @ self.v[l].T) @ self.u[l] if self._low_rank else x @ self.w[l].T
            x = torch.addcmul(x, x_0, mixed + b)
        return x @ self.out

    def reference(self, plain: Plain, weights: Mapping[str, Tensor], masks: list[Tensor] | None) -> Tensor:
        """The recursion with W_l multiplied out, one sample in each column."""
        matrices = weights["w"] if "w" in weights else weights["u"].transpose(1, 2) @ weights["v"]
        x_0 = plain.operand().flatten(1).T
        x = x_0
        for w, b in zip(matrices, weights["b"], strict=True):
            x = x_0 * (w @ x + b[:, None]) + x
        return weights["out"] @ x


class CrossV2ByField(CrossV2):
    """Low rank, each worker computing the part of its own fields."""

    wire = 1
    by_field = ("u", "v", "b", "out")
    shared = by_field

    def from_bags(self, bags: Bags) -> Tensor:
        x_0 = bags.x.flatten(1)
        x = x_0
        for v, u, b in zip(self.v, self.u, self.b, strict=True):
            t = bags.sum_fields(x @ v.T)
            x = torch.addcmul(x, x_0, t @ u + b)
        return (x @ self.out)[:, None]

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        return sums[:, 0]
