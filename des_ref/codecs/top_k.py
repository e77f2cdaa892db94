"""Sends the k largest values of each row by magnitude: one bit for each value, then the selected values unchanged.

This is how DCT-MP compresses activations between layers on different workers (Gupta et al., KDD 2021, arXiv
2010.08899). Gradients pass through the values that were sent and no others, so training follows the function that is
computed. A row holds the activations of one sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.codecs.base import Codec
from des_ref.codecs.bits import pack_bits, unpack_bits
from des_ref.codecs.message import Encoded, as_bytes, as_values, no_bytes


class TopK(Codec):
    """Keeps the largest values; torch.topk decides ties and ranks NaN above everything."""

    masks = True

    def encode(self, values: Tensor) -> Encoded:
        kept = self._kept(values.shape[1])
        # Ascending positions, the order in which `decode` fills the set bits.
        positions = values.abs().topk(kept, dim=1, sorted=False).indices.sort(dim=1).values
        bits = torch.zeros_like(values, dtype=torch.bool).scatter_(1, positions, True)
        rows = torch.cat([pack_bits(bits), as_bytes(values.gather(1, positions))], dim=1)
        return Encoded(no_bytes(values, 1), rows, no_bytes(values), (len(values),))

    def decode(self, encoded: Encoded, width: int) -> Tensor:
        bit_bytes = -(-width // 8)
        bits = unpack_bits(encoded.rows[:, :bit_bytes], width)
        kept = as_values(encoded.rows[:, bit_bytes:], self.dtype)
        return torch.zeros_like(bits, dtype=self.dtype).masked_scatter_(bits, kept)

    def _kept(self, width: int) -> int:
        """Number of values kept of a row, from the size of a row in bytes."""
        _, row, _ = self.sizes(width)
        return (row - -(-width // 8)) // self.dtype.itemsize
