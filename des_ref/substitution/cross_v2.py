"""The cross network of DCN-v2 (Wang et al., WWW 2021, equation 1), above the pooled operand.

    x_{l+1} = x_0 o (W_l x_l + b_l) + x_l,    y = x_L . w_out,    x_0 = concat_f( e_bf ) in R^(F D)

Full W_l, or W_l = U_l V_l^T of rank r. W_l x_l mixes every field with every other, so under hash placement the whole
operand x_0 must be there: see operand.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from des_ref.substitution.base import Operator, Plain
from des_ref.substitution.layers import linear_weights


class CrossV2(Operator):
    def __init__(self, fields: int, width: int, layers: int, rank: int | None, generator: torch.Generator) -> None:
        super().__init__()
        n = fields * width
        shapes = [(n, n)] if rank is None else [(rank, n), (n, rank)]  # W, or V^T and U
        self.w = nn.ParameterList(linear_weights(*shape, generator) for _ in range(layers) for shape in shapes)
        self.b = nn.Parameter(torch.zeros(layers, n, dtype=torch.float64))
        self.out = nn.Parameter(linear_weights(1, n, generator)[0])

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        x_0 = x = sums.flatten(1)
        factors = len(self.w) // len(self.b)
        for l, b in enumerate(self.b):
            mixed = x
            for w in self.w[l * factors : (l + 1) * factors]:
                mixed = mixed @ w.T
            x = torch.addcmul(x, x_0, mixed + b)
        return x @ self.out

    def reference(self, plain: Plain, weights: Mapping[str, Tensor], masks: list[Tensor] | None) -> Tensor:
        """The recursion with W_l multiplied out, a sample a column."""
        factors = [w for name, w in weights.items() if name.startswith("w.")]
        if len(factors) > len(weights["b"]):
            factors = [u @ v for v, u in zip(factors[::2], factors[1::2], strict=True)]
        x_0 = x = plain.pooled().flatten(1).T
        for w, b in zip(factors, weights["b"], strict=True):
            x = x_0 * (w @ x + b[:, None]) + x
        return weights["out"] @ x
