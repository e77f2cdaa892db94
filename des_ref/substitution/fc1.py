"""Sum pooling and the first fully connected layer of an mlp.

    h_b = W1 . concat_f( e_bf ),   e_bf = sum of v_i over the ids i of field f in sample b,   W1 [H1, F * D]

Linear in the v_i, so each worker may do it with the ids it owns and K = H1 floats a sample cross the network:

    partial   h_p[b] = sum_f W1[:, f] . (sum over *owned* ids of field f of v_i)                 [B, H1]
    finish    h = sum_p h_p; the tail goes on with relu(h + b1)
    backward  d(e_bf) = W1[:, f]^T delta_b, local;  dW1 = sum_b delta_b (x) e_b is a *partial sum* under hash placement,
              because a worker saw only its part of e: W1 is replicated and dW1 must be all-reduced

A worker owns ids in only some (sample, field) pairs. The partial works on those pairs alone, sorted by field, one GEMM
a field: 2 * D * H1 FLOPs a pair, so N workers together do the one-process work plus what multi-hot fields split.
Source: derived from Rong et al., SIGIR 2020; checked in float64 by the tests.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.substitution.held import Held


def partial(v: Tensor, held: Held, w1: Tensor) -> Tensor:
    """[B, H1] from vectors [n, D] of this worker's occurrences and W1 [H1, F * D]."""
    width = v.shape[1]
    pooled = v.new_zeros(len(held.pair_sample), width).index_add(0, held.pair, v)  # [P, D]
    # split and unbind have one backward each; slicing would make autograd add F zero-padded copies of the whole.
    blocks = w1.view(w1.shape[0], -1, width).unbind(dim=1)
    h = v.new_zeros(held.samples, w1.shape[0])
    parts = zip(pooled.split(held.field_pairs), held.pair_sample.split(held.field_pairs), blocks, strict=True)
    for e, sample, block in parts:
        # Fields without a pair too, so that W1 has a gradient for its AllReduce even on a worker that holds no id.
        h = h.index_add_(0, sample, e @ block.T)
    return h


def finish(partials: Tensor) -> Tensor:
    """h [B, H1], before bias and activation, from summed partials [B, H1]."""
    return partials


def reference(v: Tensor, index: Tensor, sample: Tensor, field: Tensor, samples: int, w1: Tensor) -> Tensor:
    """[B, H1] from all vectors [V, D] and occurrences: pool to [B, F, D], concatenate the fields, one big GEMM."""
    width = v.shape[1]
    pooled = torch.zeros(samples, w1.shape[1] // width, width, dtype=v.dtype, device=v.device)
    pooled = pooled.index_put((sample, field), v[index], accumulate=True)
    return pooled.flatten(1) @ w1.T
