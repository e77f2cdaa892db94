"""Asynchronous devices: the host only enqueues work on a GPU, and waits for it where it reads a value from there.

Code that differs between a GPU and the CPU asks `is_asynchronous`. Tests (des_ref/device/emulated.py) and `make gpu`
count where the host waits.
"""

from __future__ import annotations

import torch
from torch import Tensor


def is_asynchronous(device: torch.device) -> bool:
    """Whether the host only enqueues work on the device."""
    return device.type != "cpu"


def places_of(mask: Tensor, count: int | None = None) -> Tensor:
    """int64: where `mask` [n] is true. On an asynchronous device, the host need not wait if it knows the `count`."""
    if count is None or not is_asynchronous(mask.device):
        return mask.nonzero().squeeze(1)
    target = torch.where(mask, mask.cumsum(0) - 1, count)
    numbers = torch.arange(len(mask), device=mask.device)
    return numbers.new_empty(count + 1).scatter_(0, target, numbers)[:count]  # the last entry takes all the others
