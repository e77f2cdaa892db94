"""The bottom mlp of models with dense features: it turns them into one more vector beside those of the fields.

    e_b0 = relu(W_l ... relu(W_1 x_b + b_1) ... + b_l)   in R^D, x_b the dense features of sample b

Operators over the operand (dot.py, cross_v2.py, cin.py, towers.py, head.py, an mlp above it) read e_b0, e_b1, ...,
e_bF. These layers are above the sums, so they belong to the dense tail. The last one also ends in a ReLU, as in DLRM
(Naumov et al., 2019).
"""

from __future__ import annotations

from des_ref.substitution.layers import HiddenLayers


class Bottom(HiddenLayers):
    """[b, D] from dense features [b, d]; the last of its `widths` is the embedding's."""

    shared: tuple[str, ...] = ()
