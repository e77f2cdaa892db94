"""Initial values of rows, a function of (seed, id) only.

A row that first appears at step 5,000 on worker 3 of 8 must start exactly as it would on one worker; otherwise runs at
different world sizes could not be compared, and a resharded run could not continue. So there is no stateful generator:
column j of row `id` is the j-th draw of a counter-based stream, splitmix64 of (seed, id, j) through Box-Muller.

Values are identical on machines of the same kind; log and cos may differ in the last bit between CPU and GPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from des_ref.hashing import mix64, mix64_int, uniform, words


def normal_rows(ids: Tensor, width: int, seed: int, std: float, dtype: torch.dtype) -> Tensor:
    """Normal(0, std) values [n, width] for int64 ids [n]."""
    pairs = (width + 1) // 2
    draws = uniform(words(mix64(ids ^ mix64_int(seed)), 2 * pairs))  # [n, 2 * pairs]
    radius = torch.sqrt(-2.0 * torch.log(draws[:, :pairs]))
    angle = 2.0 * math.pi * draws[:, pairs:]
    values = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return (values[:, :width] * std).to(dtype)
