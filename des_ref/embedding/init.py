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

from des_ref.hashing import GOLDEN, mix64, mix64_int, uniform


def normal_rows(ids: Tensor, width: int, seed: int, std: float, dtype: torch.dtype) -> Tensor:
    """Normal(0, std) values [n, width] for int64 ids [n]."""
    pairs = (width + 1) // 2
    start = mix64(ids ^ mix64_int(seed))[:, None]  # [n, 1]
    counters = torch.arange(1, 2 * pairs + 1, dtype=torch.int64, device=ids.device) * GOLDEN
    draws = uniform(mix64(start + counters))  # [n, 2 * pairs]
    radius = torch.sqrt(-2.0 * torch.log(draws[:, :pairs]))
    angle = 2.0 * math.pi * draws[:, pairs:]
    values = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return (values[:, :width] * std).to(dtype)
