"""The honest fallback: an operator that does not separate gets the pooled vectors of all fields.

A product between two fields that live on different workers is no sum of what each of them can compute. For such
operators (DLRM's dot, PNN's inner products, CIN, a full DCN-v2, any head of your own) only lookup and pooling are
substituted, K = F D floats a sample:

    partial   e_p[b, f] = sum over owned ids of field f of v_i                    [B, F * D]
    finish    the operator itself, on e = sum_p e_p, above the sums
    backward  dv_i = sum_b de_bf, local

The operand rides in the reduced buffer once, whatever number of operators read it; an mlp beside them reads it too,
rather than send its own H1 floats and its dW1.
"""

from __future__ import annotations

from torch import Tensor

from des_ref.substitution.base import Bags, Local


def partial(local: Local, fields: int) -> Tensor:
    """[B, F * D]."""
    held, x = local.held, local.x
    bags = x.new_zeros(held.samples * fields, x.shape[1]).index_add(0, held.sample * fields + held.field, x)
    return bags.view(held.samples, -1)


def from_bags(bags: Bags) -> Tensor:
    return bags.x.flatten(1)
