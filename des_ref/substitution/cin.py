"""The compressed interaction network of xDeepFM (Lian et al., KDD 2018, equations 6 to 8), identity activation.

    x^k_h = sum over i, j of W^k_hij ( x^{k-1}_i o e_j )      k = 1 ..; h = 1 .. H_k; x^0 = e, one vector a field
    y = sum_k sum_h w_out,kh sum_d x^k_hd

x^1 contains products of fields, which do not separate. So the operand is the pooled vectors (operand.py), from which
every layer can be computed without further communication.

The layers' weights and products can instead be *split* over the owners of fields, because a sum over j is a sum over
workers:

    round 1   x^0 = e of all fields, as a sum of parts that are zero except for own fields                [B, F * D]
    local     x^k_p = sum over own j of ( W^k[:, :, j] x^{k-1} ) o e_j                                    [B, H_k * D]
    round k   x^{k-1} = sum_p x^{k-1}_p, k = 2 .. L                                                   [B, H_{k-1} * D]
    partial   y_p = sum_k sum_h w_out,kh sum_d x^k_hd,p: the last layer is never sent                          [B, 1]
    backward  each worker computes a part of dx^{k-1}; one more round a layer sums them. dW^k is local; dw_out is a
              partial sum and is all-reduced (one float for each map)

That divides the work of a replicated tail (des_all_reduce) by N and sends 4 D (F + H_1 + ..) floats for each sample,
where the operand sends 2 F D. With des_reduce_scatter each worker runs the tail for its own samples, so the work is
divided already.

Source: the split is derived here; checked in float64 by the tests.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from des_ref.substitution.base import Bags, Operator, Plain
from des_ref.substitution.layers import linear_weights


class Cin(Operator):
    """All layers, computed from the operand."""

    def __init__(self, fields: int, widths: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        below = (fields, *widths[:-1])
        self.w = nn.ParameterList(
            linear_weights(h, inputs * fields, generator).view(h, inputs, fields)
            for h, inputs in zip(widths, below, strict=True)
        )
        self.out = nn.Parameter(linear_weights(1, sum(widths), generator)[0])

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        x = sums
        maps = []
        for w in self.w:
            x = _layer(w, x, sums)
            maps.append(x.sum(dim=2))
        return torch.cat(maps, dim=1) @ self.out

    def reference(self, plain: Plain, weights: Mapping[str, Tensor], masks: list[Tensor] | None) -> Tensor:
        """The sums as the paper writes them, one feature map at a time."""
        e = plain.operand()
        x = e
        maps = []
        for w in (w for name, w in weights.items() if name.startswith("w.")):
            x = torch.einsum("hij,bid,bjd->bhd", w, x, e)
            maps += [x[:, h].sum(dim=1) for h in range(len(w))]
        return sum((w * x for w, x in zip(weights["out"], maps, strict=True)), torch.zeros_like(maps[0]))


class CinByField(Cin):
    """Split over fields: each worker computes the terms of its own fields."""

    wire = 1

    def __init__(self, fields: int, widths: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__(fields, widths, generator)
        self.by_field = tuple(f"w.{k}" for k in range(len(widths)))
        self.shared = (*self.by_field, "out")

    def from_bags(self, bags: Bags) -> Tensor:
        first, *further = self.w
        part = _layer(first, bags.x_of_all_fields(), bags.x)
        maps = [part.sum(dim=2)]
        for w in further:
            x = bags.sum_fields(part.flatten(1)).view_as(part)
            part = _layer(w, x, bags.x)
            maps.append(part.sum(dim=2))
        return (torch.cat(maps, dim=1) @ self.out)[:, None]

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        return sums[:, 0]


def _layer(w: Tensor, x: Tensor, e: Tensor) -> Tensor:
    """[b, H, D]: sum over i, j of w [H, I, J] times x [b, I, D] o e [b, J, D]."""
    return w.flatten(1) @ (x[:, :, None] * e[:, None]).flatten(1, 2)
