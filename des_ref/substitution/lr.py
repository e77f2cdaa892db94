"""Logistic regression, the wide part: y_b = sum_i w_i x_bi + bias.

Additive over ids, so any placement of rows works. One float is sent for each sample, K = 1.

    partial   z_p[b] = sum over owned ids i of sample b of w_i           [B, 1]
    finish    y = z                                                      (the network adds the bias)
    backward  dw_i = sum of delta_b over the samples that contain i: local

All inputs are categorical, so x_bi is the number of times that i occurs in b. Source: Rong et al., SIGIR 2020, section
on LR.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from des_ref.substitution.base import Bags, Local, Operator, Plain


class Lr(Operator):
    """The weighted sum of a sample's ids."""

    wire = 1

    def terms(self, local: Local) -> list[Tensor]:
        return [local.values["w"]]

    def from_bags(self, bags: Bags) -> Tensor:
        return bags.w.sum(dim=1)

    def finish(self, sums: Tensor, masks: list[Tensor] | None) -> Tensor:
        return sums[:, 0]

    def reference(self, plain: Plain, weights: Mapping[str, Tensor], masks: list[Tensor] | None) -> Tensor:
        """The sum of the weights of each sample's ids."""
        zeros = torch.zeros(plain.samples, dtype=plain.w.dtype, device=plain.w.device)
        return zeros.scatter_add(0, plain.sample, plain.w[plain.index, 0])
