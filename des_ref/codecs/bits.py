"""Small codes in bytes: one bit each, eight to a byte; six bits each, four to three bytes."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor


def pack_bits(bits: Tensor) -> Tensor:
    """bool [n, w] -> uint8 [n, ceil(w / 8)], the first bit lowest."""
    n, width = bits.shape
    padded = nnf.pad(bits.to(torch.uint8), (0, -width % 8)).view(n, -(-width // 8), 8)
    return (padded << torch.arange(8, dtype=torch.uint8, device=bits.device)).sum(dim=2, dtype=torch.uint8)


def unpack_bits(packed: Tensor, width: int) -> Tensor:
    """The other way, bool [n, width]."""
    bits = (packed[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    return bits.view(len(packed), packed.shape[1] * 8)[:, :width].bool()


def pack_sixes(codes: Tensor) -> Tensor:
    """uint8 [n, w] below 64 -> [n, ceil(6 w / 8)]. Bits shifted out of a byte are in its neighbour."""
    n, width = codes.shape
    a, b, c, d = nnf.pad(codes, (0, -width % 4)).view(n, -(-width // 4), 4).unbind(dim=2)
    triples = torch.stack([a | (b << 6), (b >> 2) | (c << 4), (c >> 4) | (d << 2)], dim=2)
    return triples.view(n, triples.shape[1] * 3)[:, : -(-6 * width // 8)]


def unpack_sixes(packed: Tensor, width: int) -> Tensor:
    """The other way, uint8 [n, width]."""
    n, fours = len(packed), -(-width // 4)
    x, y, z = nnf.pad(packed, (0, -packed.shape[1] % 3)).view(n, fours, 3).unbind(dim=2)
    codes = torch.stack([x & 63, (x >> 6) | ((y & 15) << 2), (y >> 4) | ((z & 3) << 4), z >> 2], dim=2)
    return codes.view(n, fours * 4)[:, :width]
