"""Second-order factorization machine over features (Rendle, ICDM 2010, equation 5; libFM's semantics).

    y_b = sum over pairs i < j of occurrences in sample b of <v_i, v_j>
        = ( |S_b|**2 - q_b ) / 2     with S_b = sum_i v_i   and   q_b = sum_i |v_i|**2

S and q are sums over ids, so rows may live anywhere (hash placement) and K = D + 1 floats a sample cross the network:

    partial   S_p[b] = sum over owned ids of v_i,  q_p[b] = sum over owned ids of |v_i|**2        [B, D + 1]
    finish    y = (|S|**2 - q) / 2
    backward  dv_i = sum_b delta_b (S_b - v_i): S is known to every worker, so it is local

Not the FM over *pooled field vectors* that some frameworks call FM: its q needs the norm of a whole field's sum, which
is not additive over ids, so hash placement would give wrong values there (docs: DES, section 2).

|S|**2 - q cancels: both stay in float32 or wider whatever is sent on the wire.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.substitution.held import Held


def partial(v: Tensor, held: Held) -> Tensor:
    """[B, D + 1], columns (S, q), from vectors [n, D] of this worker's occurrences."""
    terms = torch.cat([v, v.square().sum(dim=1, keepdim=True)], dim=1)
    return v.new_zeros(held.samples, terms.shape[1]).index_add(0, held.sample, terms)


def finish(partials: Tensor) -> Tensor:
    """Logits [B] from summed partials [B, D + 1]."""
    s, q = partials[:, :-1], partials[:, -1]
    return (s.square().sum(dim=1) - q) / 2


def reference(v: Tensor, index: Tensor, sample: Tensor, samples: int) -> Tensor:
    """[B] from all vectors [V, D] and occurrences (index [n] into V, sample [n]): every pair, a Gram matrix a sample.

    sum over i < j of <v_i, v_j> is the strict upper triangle of G = X X^T, X the vectors of one sample. Quadratic in
    the ids of a sample and a Python loop over samples: the definition, not the trick.
    """
    order = torch.argsort(sample, stable=True)
    vectors = v[index[order]].split(torch.bincount(sample, minlength=samples).tolist())
    return torch.stack([torch.triu(x @ x.T, diagonal=1).sum() for x in vectors])
