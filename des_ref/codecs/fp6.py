"""Six-bit floats under a scale that fits log-normal values (Chmiel et al., arXiv 2006.08173, the paper's first method).

A sign, and five bits shared between exponent and mantissa. Values that spread more need more exponent: the mean
relative error of log-normal values is least with 3 exponent bits up to sigma = 0.9, with 4 up to 2.05, with 5 above
(found by trying; tests/des_ref/test_codecs.py). The scale is the power of two that puts the largest value expected of
so many log-normal ones, or a larger one that is there, within the range; what is much smaller becomes 0. (The paper
lets larger ones saturate. It encodes a layer at a time; the gradients of several together have a heavier tail.)

    levels of e exponent and m mantissa bits, times the scale:
        (1 + M / 2^m) 2^(E - top)   for E = 1 .. top = 2^e - 1        M / 2^m 2^(1 - top)   for E = 0

The header has the scale, a float32, and m, an int32. A tensor with a NaN has a NaN for its scale: it decodes to NaN.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from des_ref.codecs.base import Codec
from des_ref.codecs.bits import pack_sixes, unpack_sixes
from des_ref.codecs.lognormal import expected_largest, fit
from des_ref.codecs.message import Encoded, as_values, no_bytes

SPREADS = ((0.9, 2), (2.05, 1), (math.inf, 0))  # sigma up to which so many mantissa bits have the least error
_SIGN_BIT = 5


def layout(sigma: float) -> int:
    """Mantissa bits for values of this spread."""
    return next(bits for most, bits in SPREADS if sigma <= most)


@cache
def levels(mantissa: int, device: torch.device | str = "cpu") -> Tensor:
    """[32], what the codes 0 .. 31 stand for under scale 1, rising, float64. Not to be written into."""
    code = torch.arange(1 << _SIGN_BIT, device=device)
    exponent, fraction = code >> mantissa, (code & ((1 << mantissa) - 1)).double() / (1 << mantissa)
    top = (1 << (5 - mantissa)) - 1
    normal = (1 + fraction) * torch.pow(2.0, (exponent - top).double())
    return torch.where(exponent > 0, normal, fraction * 2.0 ** (1 - top))


class Fp6(Codec):
    """Each value the nearest of 63 levels."""

    def encode(self, values: Tensor) -> Encoded:
        magnitudes = values.abs()
        mu, sigma, largest, count = fit(magnitudes)
        mantissa = layout(sigma)
        table = levels(mantissa, values.device)
        scale = 1.0
        if count:
            largest = max(expected_largest(mu, sigma, count), largest)
            scale = 2.0 ** max(-126, min(127, math.ceil(math.log2(largest / float(table[-1])))))  # as a float32 can be
        middles = ((table[1:] + table[:-1]) / 2 * scale).to(values.dtype)
        code = torch.bucketize(magnitudes, middles, out_int32=True).to(torch.uint8)
        code |= (values < 0).to(torch.uint8) << _SIGN_BIT
        if bool(values.isnan().any()):
            scale = math.nan
        parts = ((scale, torch.float32), (mantissa, torch.int32))
        header = torch.cat([torch.tensor([x], dtype=t).view(torch.uint8) for x, t in parts])
        return Encoded(header[None].to(values.device), pack_sixes(code), no_bytes(values), (len(values),))

    def decode(self, encoded: Encoded, width: int) -> Tensor:
        code = unpack_sixes(encoded.rows, width)
        scale, mantissa = as_values(encoded.header[:, :4], torch.float32), as_values(encoded.header[:, 4:], torch.int32)
        tables = torch.stack([levels(m, code.device) for m in range(len(SPREADS))])[mantissa[:, 0].long()] * scale
        # What each of the 64 codes of each message stands for, one message after the other.
        tables = torch.cat([tables, -tables], dim=1).to(self.dtype)
        splits = torch.tensor(encoded.splits, device=code.device)
        first = torch.arange(len(splits), dtype=torch.int32, device=code.device).repeat_interleave(splits) << 6
        return tables.view(-1).index_select(0, (code + first[:, None]).view(-1)).view(code.shape)
