"""The bottom mlp of models with dense features: it turns them into one more vector beside those of the fields.

    e_b0 = relu(W_l ... relu(W_1 x_b + b_1) ... + b_l)   in R^D, x_b the dense features of sample b

Operators over the operand (dot.py, cross_v2.py, cin.py, head.py, an mlp above it) read e_b0, e_b1, ..., e_bF. These
layers are above the sums, so they belong to the dense tail. The last one also ends in a ReLU, as in DLRM (Naumov et
al., 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from des_ref.substitution.layers import linear_weights


class Bottom(nn.Module):
    """`widths` of its layers; the last is the embedding's."""

    shared: tuple[str, ...] = ()

    def __init__(self, features: int, widths: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ParameterList()  # (W, b) of each layer
        for fan_in, fan_out in pairwise((features, *widths)):
            self.layers.append(linear_weights(fan_out, fan_in, generator))
            self.layers.append(torch.zeros(fan_out, dtype=torch.float64))

    def forward(self, dense: Tensor) -> Tensor:
        """[b, D] from dense features [b, d]."""
        x = dense
        for weight, bias in zip(self.layers[::2], self.layers[1::2], strict=True):
            x = torch.relu_(torch.addmm(bias, x, weight.T))
        return x


def plain_bottom(dense: Tensor, layers: Sequence[Tensor]) -> Tensor:
    """The same as a textbook writes it, for the reference; `layers` are W1, b1, W2, ..."""
    x = dense
    for weight, bias in zip(layers[::2], layers[1::2], strict=True):
        x = torch.relu(x @ weight.T + bias)
    return x
