"""Tensors that grow at the end, row by row, without moving.

On a CPU a tensor reserves address space for as many rows as would fill the machine's memory, and the kernel provides
memory page by page when rows are first written. Growing therefore copies nothing. Where address space cannot be
reserved (a limit on it, GPU memory), rows are copied into a tensor that is a quarter longer: on a GPU, copying 10
million rows of 20 floats takes a millisecond and needs at most 2.25 times their memory while it runs.

Rows are zero until something is written.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from math import prod

import torch
from torch import Tensor

MAX_ROWS = 2**31 - 2  # row numbers are int32 in the index
_MIN_ROWS = 1024
_GROWTH = 1.25
# Linux's value on x86 and ARM; Python has the name since 3.13.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_HUGE_PAGES_FROM = 4 << 20  # bytes; a huge page takes 2 MiB, too much for small tables


class Growing:
    """`values` [capacity, *shape]; rows below the count last passed to `reserve` may be used."""

    def __init__(self, dtype: torch.dtype, device: torch.device | str, *shape: int) -> None:
        self._dtype = dtype
        self._device = torch.device(device)
        self._shape = shape
        row_bytes = dtype.itemsize * prod(shape)
        rows = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // max(row_bytes, 1), MAX_ROWS)
        mapped = mapped_zeros(rows * prod(shape), dtype) if self._device.type == "cpu" else None
        self.values = torch.zeros(0, *shape, dtype=dtype, device=device) if mapped is None else mapped.view(-1, *shape)

    def reserve(self, rows: int) -> None:
        """Make room for `rows` rows in total."""
        old = self.values
        if rows > len(old):
            capacity = max(rows, int(_GROWTH * len(old)), _MIN_ROWS)
            self.values = torch.zeros(capacity, *self._shape, dtype=self._dtype, device=self._device)
            self.values[: len(old)] = old


def zeros(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[count] zeros; on a CPU their memory is not touched yet."""
    mapped = mapped_zeros(count, dtype) if device.type == "cpu" else None
    return torch.zeros(count, dtype=dtype, device=device) if mapped is None else mapped


def mapped_zeros(count: int, dtype: torch.dtype) -> Tensor | None:
    """[count] zeros on the CPU with address space but no memory yet; None where the kernel refuses."""
    size = count * dtype.itemsize
    if size == 0:
        return None
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    except OSError:
        return None
    if size > _HUGE_PAGES_FROM:
        # Rows are read at random, and with 4 KiB pages most reads would also miss the TLB. Not all kernels have huge
        # pages.
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE, _HUGE_PAGES_FROM, size - _HUGE_PAGES_FROM)
    return torch.frombuffer(memory, dtype=dtype)
