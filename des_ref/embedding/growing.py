"""Tensors that grow at their end, row after row, and do not move while they do.

On a CPU a tensor reserves addresses for as many rows as the machine has memory for, and gets memory page by page when
rows are first written: growing copies nothing and takes no time of its own. Where addresses are not to be had (a
limit on them, memory of a GPU) rows are copied into a tensor a quarter longer: on a GPU 10 million rows of 20 floats
take a millisecond, and no more than 2.25 times their memory while it lasts.

Rows are zero until something is written.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from math import prod

import torch
from torch import Tensor

MOST_ROWS = 2**31 - 2  # row numbers are int32 in the index
_SMALLEST = 1024
_GROWTH = 1.25
# Linux's number on x86 and ARM; Python has had the name since 3.13.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_HUGE_AFTER = 4 << 20  # bytes: small tables do without huge pages, of which each is 2 MiB


class Growing:
    """`values` [capacity, *shape]; those below the rows last asked for with `reserve` may be used."""

    def __init__(self, dtype: torch.dtype, device: torch.device | str, *shape: int) -> None:
        self._dtype, self._device, self._shape = dtype, torch.device(device), shape
        row_bytes = dtype.itemsize * prod(shape)
        rows = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // max(row_bytes, 1), MOST_ROWS)
        mapped = mapped_zeros(rows * prod(shape), dtype) if self._device.type == "cpu" else None
        self.values = torch.zeros(0, *shape, dtype=dtype, device=device) if mapped is None else mapped.view(-1, *shape)

    def reserve(self, rows: int) -> None:
        """Have room for so many rows."""
        old = self.values
        if rows > len(old):
            longer = max(rows, int(_GROWTH * len(old)), _SMALLEST)
            self.values = torch.zeros(longer, *self._shape, dtype=self._dtype, device=self._device)
            self.values[: len(old)] = old


def zeros(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[count] zeros, on a CPU without touching their memory yet."""
    mapped = mapped_zeros(count, dtype) if device.type == "cpu" else None
    return torch.zeros(count, dtype=dtype, device=device) if mapped is None else mapped


def mapped_zeros(count: int, dtype: torch.dtype) -> Tensor | None:
    """[count] zeros on the CPU that have addresses only; None where they are refused."""
    size = count * dtype.itemsize
    if size == 0:
        return None
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    except OSError:
        return None
    if size > _HUGE_AFTER:
        # Rows are read at random: with pages of 4 KiB most reads would miss the TLB too. Some kernels have no others.
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE, _HUGE_AFTER, size - _HUGE_AFTER)
    return torch.frombuffer(memory, dtype=dtype)
