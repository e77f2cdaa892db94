"""Logistic regression, the wide part: y_b = sum_i w_i x_bi + bias.

Additive over ids, so any placement of rows will do (hash here) and one float a sample crosses the network, K = 1.

    partial   z_p[b] = sum over owned ids i of sample b of w_i           [B, 1]
    finish    y = z                                                      (the bias is the dense tail's)
    backward  dw_i = sum_b delta_b over the samples that have i: local

Every input is categorical, so x_bi counts how often i occurs in b. Source: Rong et al., SIGIR 2020, section on LR.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.substitution.held import Held


def partial(w: Tensor, held: Held) -> Tensor:
    """[B, 1] from weights [n, 1] of this worker's occurrences."""
    return w.new_zeros(held.samples, 1).index_add(0, held.sample, w)


def finish(z: Tensor) -> Tensor:
    """Logits [B] from summed partials [B, 1]."""
    return z[:, 0]


def reference(w: Tensor, counts: Tensor) -> Tensor:
    """[B] from all weights [V, 1] and occurrence counts [B, V]: the matrix product a textbook writes."""
    return (counts @ w)[:, 0]


def reference_sparse(w: Tensor, index: Tensor, sample: Tensor, samples: int) -> Tensor:
    """The same from all weights [V, 1] and occurrences (index [n] into V, sample [n]), where [B, V] is too big."""
    return torch.zeros(samples, dtype=w.dtype, device=w.device).scatter_add(0, sample, w[index, 0])
