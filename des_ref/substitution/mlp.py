"""Pooling, the first fully connected layer of an mlp, and the layers above it.

    h_b = W1 . concat_f( e_bf ),   e_bf = sum of v_i over the ids i of field f in sample b,   W1 [H1, F * D]

This is linear in the v_i, so each worker can compute it for the ids it owns. K = H1 floats are sent for each sample:

    partial   h_p[b] = sum_f W1[:, f] . (sum over *owned* ids of field f of v_i)                 [B, H1]
    finish    h = sum_p h_p; relu(h + b1) and the further layers
    backward  d(e_bf) = W1[:, f]^T delta_b, local;  dW1 = sum_b delta_b (x) e_b is a *partial sum* under hash placement,
              because a worker knows only its part of e. W1 is replicated, and dW1 is all-reduced

Under field placement the columns W1[:, f] are on the worker that owns field f, which knows the whole e_bf, so dW1 is
local.

Source: derived from Rong et al., SIGIR 2020; checked in float64 by the tests.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from des_ref.substitution.base import Bags, Local, Operator, Plain, pair_products
from des_ref.substitution.layers import Tower, linear_weights, plain_tower


class Mlp(Operator):
    """`inputs`: floats of all vectors, F * D or the sum of their widths. `outputs`: number of units of the last layer,
    for subclasses that need more than a logit."""

    pairs = True
    shared = ("w1",)
    by_field = shared

    def __init__(
        self,
        inputs: int,
        widths: tuple[int, ...],
        dropout: float,
        generator: torch.Generator,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.wire = widths[0]
        self.hidden = widths
        self.dropout = dropout
        self.w1 = nn.Parameter(linear_weights(widths[0], inputs, generator))
        self.tower = Tower(widths, generator, outputs)

    def partial(self, local: Local) -> Tensor:
        return pair_products(local, self.w1)

    def from_bags(self, bags: Bags) -> Tensor:
        return bags.x.flatten(1) @ self.w1.T

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        return self.tower(sums, masks)

    def reference(self, plain: Plain, weights: Mapping[str, Tensor], masks: list[Tensor] | None) -> Tensor:
        """Pool to [B, F, D], concatenate the fields, one big GEMM, then layer by layer."""
        w1, *layers = weights.values()
        return plain_tower(plain.operand().flatten(1) @ w1.T, layers, masks)


class MlpOverOperand(Mlp):
    """The same for models that send the pooled vectors anyway: W1 is above the sums, like the layers after it."""

    pairs = False
    shared = ()
    by_field = ()

    def __init__(self, inputs: int, widths: tuple[int, ...], dropout: float, generator: torch.Generator) -> None:
        super().__init__(inputs, widths, dropout, generator)
        self.wire = 0

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        return self.tower(sums.flatten(1) @ self.w1.T, masks)
