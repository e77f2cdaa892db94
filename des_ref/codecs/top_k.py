"""Of each row its largest values (by magnitude): a bit a value that says which, then these, as they are.

The paper compresses activations between layers on different workers so, and lets gradients through the values that were
sent and no others: the function that is trained is the one that is computed (DCT-MP, Gupta et al., KDD 2021, arXiv
2010.08899). A row has the activations of a sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.codecs.base import Codec
from des_ref.codecs.bits import pack_bits, unpack_bits
from des_ref.codecs.message import Encoded, as_bytes, as_values, no_bytes


class TopK(Codec):
    """The largest; of equals those that torch.topk finds. A NaN is larger than anything."""

    masks = True

    def encode(self, values: Tensor) -> Encoded:
        kept = self._kept(values.shape[1])
        # Sorted by place, so that the bits say where each belongs.
        at = values.abs().topk(kept, dim=1, sorted=False).indices.sort(dim=1).values
        bits = torch.zeros_like(values, dtype=torch.bool).scatter_(1, at, True)
        rows = torch.cat([pack_bits(bits), as_bytes(values.gather(1, at))], dim=1)
        return Encoded(no_bytes(values, 1), rows, no_bytes(values), (len(values),))

    def decode(self, encoded: Encoded, width: int) -> Tensor:
        first = -(-width // 8)
        bits = unpack_bits(encoded.rows[:, :first], width)
        kept = as_values(encoded.rows[:, first:], self.dtype)
        return torch.zeros_like(bits, dtype=self.dtype).masked_scatter_(bits, kept)

    def _kept(self, width: int) -> int:
        """How many of a row: what the bytes of a row are for."""
        _, row, _ = self.sizes(width)
        return (row - -(-width // 8)) // self.dtype.itemsize
