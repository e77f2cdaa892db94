"""The compressed interaction network of xDeepFM (Lian et al., KDD 2018, equations 6 to 8), identity activation.

    x^k_h = sum over i, j of W^k_hij ( x^{k-1}_i o e_j )      k = 1 ..; h = 1 .. H_k; x^0 = e, one vector a field
    y = sum_k sum_h w_out,kh sum_d x^k_hd

x^{k-1}_i o e_j multiplies fields with fields: not separable, so the operand is the pooled vectors (operand.py).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from des_ref.substitution.base import Operator, Plain
from des_ref.substitution.layers import linear_weights


class Cin(Operator):
    def __init__(self, fields: int, widths: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        below = (fields, *widths[:-1])
        self.w = nn.ParameterList(
            linear_weights(h, inputs * fields, generator) for h, inputs in zip(widths, below, strict=True)
        )
        self.out = nn.Parameter(linear_weights(1, sum(widths), generator)[0])

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        x, maps = sums, []
        for w in self.w:
            products = (x[:, :, None] * sums[:, None]).flatten(1, 2)  # [b, H_{k-1} F, D]
            x = w @ products
            maps.append(x.sum(dim=2))
        return torch.cat(maps, dim=1) @ self.out

    def reference(self, plain: Plain, weights: Mapping[str, Tensor], masks: list[Tensor] | None) -> Tensor:
        """The sums as the paper writes them, a map at a time."""
        e = x = plain.pooled()
        maps = []
        for w in (w for name, w in weights.items() if name.startswith("w.")):
            x = torch.einsum("hij,bid,bjd->bhd", w.view(len(w), x.shape[1], plain.fields), x, e)
            maps += [x[:, h].sum(dim=1) for h in range(len(w))]
        return sum((w * x for w, x in zip(weights["out"], maps, strict=True)), torch.zeros_like(maps[0]))
