"""Bit packing: eight 1-bit codes to a byte, four 6-bit codes to three bytes."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor


def pack_bits(bits: Tensor) -> Tensor:
    """bool [n, w] -> uint8 [n, ceil(w / 8)], the first bit in the lowest position."""
    n, width = bits.shape
    padded = nnf.pad(bits.to(torch.uint8), (0, -width % 8)).view(n, -(-width // 8), 8)
    return (padded << torch.arange(8, dtype=torch.uint8, device=bits.device)).sum(dim=2, dtype=torch.uint8)


def unpack_bits(packed: Tensor, width: int) -> Tensor:
    """The inverse of `pack_bits`: bool [n, width]."""
    bits = (packed[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    return bits.view(len(packed), packed.shape[1] * 8)[:, :width].bool()


def pack_6bit(codes: Tensor) -> Tensor:
    """uint8 [n, w], values below 64 -> uint8 [n, ceil(6 w / 8)].

    The left shifts overflow on purpose: bits shifted out of a byte are stored in its neighbour.
    """
    n, width = codes.shape
    a, b, c, d = nnf.pad(codes, (0, -width % 4)).view(n, -(-width // 4), 4).unbind(dim=2)
    triples = torch.stack([a | (b << 6), (b >> 2) | (c << 4), (c >> 4) | (d << 2)], dim=2)
    return triples.view(n, triples.shape[1] * 3)[:, : -(-6 * width // 8)]


def unpack_6bit(packed: Tensor, width: int) -> Tensor:
    """The inverse of `pack_6bit`: uint8 [n, width]."""
    n = len(packed)
    groups = -(-width // 4)  # of four codes in three bytes
    x, y, z = nnf.pad(packed, (0, -packed.shape[1] % 3)).view(n, groups, 3).unbind(dim=2)
    codes = torch.stack([x & 63, (x >> 6) | ((y & 15) << 2), (y >> 4) | ((z & 3) << 4), z >> 2], dim=2)
    return codes.view(n, groups * 4)[:, :width]
