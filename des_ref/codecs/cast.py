"""Floats of fewer bits.

bfloat16 has the range of float32 and 8 bits of precision. float16 has 11 bits of precision and a range of 6e-8 to
65,504; larger values become infinite, and training stops.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.codecs.base import Codec
from des_ref.codecs.message import Encoded, as_bytes, as_values, no_bytes

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Cast(Codec):
    """Rounds each value to the nearest float of the codec's type; `fp32` sends values unchanged."""

    @property
    def type(self) -> torch.dtype:
        return _TYPES.get(self.form.name, self.dtype)

    def encode(self, values: Tensor) -> Encoded:
        return Encoded(no_bytes(values, 1), as_bytes(values.to(self.type)), no_bytes(values), (len(values),))

    def decode(self, encoded: Encoded, width: int) -> Tensor:
        return as_values(encoded.rows, self.type).to(self.dtype)
