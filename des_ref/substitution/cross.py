"""The cross network of DCN (Wang et al., ADKDD 2017, equation 3): L layers in *one* round of L + 1 scalars.

    x_{l+1} = x_0 (x_l . w_l) + b_l + x_l,    y = x_L . w_out,    x_0 = concat_f( e_bf ) in R^(F D)

By induction x_l = a_l x_0 + c_l, where the scalar a_l depends on the sample and the vector c_l does not:

    a_0 = 1,  a_{l+1} = a_l + a_l p_l + c_l . w_l      with p_l = x_0 . w_l
    c_0 = 0,  c_{l+1} = c_l + b_l

So a sample needs x_0 only through the scalars p_0 .. p_{L-1} and p_out = x_0 . w_out, which are linear in the rows:

    partial   p_p[b] = x0_p . (w_0, ..., w_{L-1}, w_out), x0_p from owned ids only            [B, L + 1]
    finish    the recursion of a; y = a_L p_out + c_L . w_out
    backward  dx_0 = sum_l dp_l w_l, local; dw_l is a partial sum, like dW1 of an mlp, and is all-reduced ((L + 1) F D
              floats)

w_l is read both below the sums and above them (c_l . w_l), so its gradient has two parts.

Source: derived here; checked in float64 by the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import torch
from torch import Tensor, nn

from des_ref.substitution.base import Bags, Local, Operator, Plain, pair_products
from des_ref.substitution.layers import linear_weights


class Cross(Operator):
    """`layers` cross layers over `inputs` floats, and the output weights."""

    pairs = True
    shared = ("w",)

    def __init__(self, inputs: int, layers: int, generator: torch.Generator) -> None:
        super().__init__()
        self.wire = layers + 1
        self.w = nn.Parameter(linear_weights(layers + 1, inputs, generator))  # w_0 .. w_{L-1}, w_out
        self.b = nn.Parameter(torch.zeros(layers, inputs, dtype=torch.float64))

    def partial(self, local: Local) -> Tensor:
        return pair_products(local, self.w)

    def from_bags(self, bags: Bags) -> Tensor:
        return bags.x.flatten(1) @ self.w.T

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        *p, p_out = sums.unbind(dim=1)
        # Not cumsum, which a GPU need not compute in the same order every time.
        c = torch.stack(list(accumulate(self.b, initial=torch.zeros_like(self.w[0]))))  # c_0 .. c_L
        c_w = (c * self.w).sum(dim=1)
        a = torch.ones_like(p_out)
        for l, p_l in enumerate(p):
            a = a + a * p_l + c_w[l]
        return a * p_out + c_w[-1]

    def reference(self, plain: Plain, weights: Mapping[str, Tensor], masks: list[Tensor] | None) -> Tensor:
        """The recursion on whole vectors."""
        x_0 = plain.pooled().flatten(1)
        x = x_0
        for w, b in zip(weights["w"][:-1], weights["b"], strict=True):
            x = x_0 * (x @ w)[:, None] + b + x
        return x @ weights["w"][-1]
