"""Six-bit floats with a scale that fits log-normal values (Chmiel et al., arXiv 2006.08173, the paper's first method).

A code has a sign and five bits shared between exponent and mantissa. Values with a wider spread need more exponent
bits: the mean relative error of log-normal values is least with 3 exponent bits up to sigma = 0.9, with 4 up to 2.05
and with 5 above (found by search; tests/des_ref/test_codecs.py).

The scale is the smallest power of two that keeps the largest value in range: the largest of the message, or the largest
expected of that number of log-normal values if that is greater. Much smaller values become 0. (The paper lets larger
values saturate, but it encodes one layer at a time; the gradients of several layers together have a heavier tail.)

    levels of e exponent and m mantissa bits, times the scale:
        (1 + M / 2^m) 2^(E - top)   for E = 1 .. top = 2^e - 1        M / 2^m 2^(1 - top)   for E = 0

The header is the scale, a float32, and m, an int32. A tensor that contains a NaN gets a NaN scale and decodes to NaN.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from des_ref.codecs.base import Codec
from des_ref.codecs.bits import pack_6bit, unpack_6bit
from des_ref.codecs.lognormal import expected_largest, fit
from des_ref.codecs.message import Encoded, as_values, no_bytes

# (largest sigma, number of mantissa bits that has the least error up to it)
MANTISSA_BITS_BY_SIGMA = ((0.9, 2), (2.05, 1), (math.inf, 0))
_SIGN_BIT = 5


def mantissa_bits(sigma: float) -> int:
    """The best number of mantissa bits for log-normal values with deviation `sigma`."""
    return next(bits for max_sigma, bits in MANTISSA_BITS_BY_SIGMA if sigma <= max_sigma)


@cache
def levels(mantissa: int, device: torch.device | str = "cpu") -> Tensor:
    """float64 [32], ascending: the values of codes 0 .. 31 at scale 1. Cached, so callers must not write into it."""
    code = torch.arange(1 << _SIGN_BIT, device=device)
    exponent = code >> mantissa
    fraction = (code & ((1 << mantissa) - 1)).double() / (1 << mantissa)
    top = (1 << (5 - mantissa)) - 1
    normal = (1 + fraction) * torch.pow(2.0, (exponent - top).double())
    return torch.where(exponent > 0, normal, fraction * 2.0 ** (1 - top))


class Fp6(Codec):
    """Rounds each value to the nearest of 63 levels."""

    def encode(self, values: Tensor) -> Encoded:
        magnitudes = values.abs()
        mu, sigma, largest, count = fit(magnitudes)
        mantissa = mantissa_bits(sigma)
        table = levels(mantissa, values.device)
        scale = 1.0
        if count:
            largest = max(expected_largest(mu, sigma, count), largest)
            scale = 2.0 ** max(-126, min(127, math.ceil(math.log2(largest / float(table[-1])))))  # float32's exponents
        midpoints = ((table[1:] + table[:-1]) / 2 * scale).to(values.dtype)
        code = torch.bucketize(magnitudes, midpoints, out_int32=True).to(torch.uint8)
        code |= (values < 0).to(torch.uint8) << _SIGN_BIT
        if bool(values.isnan().any()):
            scale = math.nan
        header = torch.cat(
            [
                torch.tensor([scale], dtype=torch.float32).view(torch.uint8),
                torch.tensor([mantissa], dtype=torch.int32).view(torch.uint8),
            ]
        )
        return Encoded(header[None].to(values.device), pack_6bit(code), no_bytes(values), (len(values),))

    def decode(self, encoded: Encoded, width: int) -> Tensor:
        code = unpack_6bit(encoded.rows, width)
        scale = as_values(encoded.header[:, :4], torch.float32)  # [messages, 1]
        mantissa = as_values(encoded.header[:, 4:], torch.int32)  # [messages, 1]
        level_tables = torch.stack([levels(m, code.device) for m in range(len(MANTISSA_BITS_BY_SIGMA))])
        tables = level_tables[mantissa[:, 0].long()] * scale
        tables = torch.cat([tables, -tables], dim=1).to(self.dtype)  # [messages, 64]: the value of each code
        splits = torch.tensor(encoded.splits, device=code.device)
        first = torch.arange(len(splits), dtype=torch.int32, device=code.device).repeat_interleave(splits) << 6
        return tables.view(-1).index_select(0, (code + first[:, None]).view(-1)).view(code.shape)
