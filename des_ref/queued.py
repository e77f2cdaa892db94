"""Devices that run behind the host: what it issues to a GPU is queued, and reading a value there makes the host wait.

Code that is written for such a device instead of the CPU asks `is_queued`. Where the host waits is counted in tests
(des_ref/device/emulated.py) and by `make gpu`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def is_queued(device: torch.device) -> bool:
    """Whether work on the device is queued."""
    return device.type != "cpu"


def places_of(mask: Tensor, count: int | None = None) -> Tensor:
    """int64: where `mask` [n] is true. On a device that runs behind the host, a known `count` saves waiting for it."""
    if count is None or not is_queued(mask.device):
        return mask.nonzero().squeeze(1)
    target = torch.where(mask, mask.cumsum(0) - 1, count)
    numbers = torch.arange(len(mask), device=mask.device)
    return numbers.new_empty(count + 1).scatter_(0, target, numbers)[:count]  # the last entry takes all the others
