"""Stochastic pruning: small values become 0 or a threshold at random, unbiased (Chmiel et al., second method).

    |g| >= a    g
    |g| <  a    a sign(g) with probability |g| / a, else 0          so E[sent] = g

The threshold a is chosen so that the requested share of log-normal values becomes 0; mu and sigma are fitted to the
non-zero values (lognormal.py). A message has one bit for each value, set where it is not zero, and then those values.

Random draws depend on the seed, the worker, the op and the number of steps it has taken.

Source: Chmiel et al., arXiv 2006.08173.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.codecs.base import Codec
from des_ref.codecs.bits import pack_bits, unpack_bits
from des_ref.codecs.lognormal import fit, threshold
from des_ref.codecs.message import Encoded, as_bytes, as_values, no_bytes
from dessim.workload.codecs import CodecSpec


class Pruning(Codec):
    """Prunes a fixed share of the values; keeps a random generator."""

    keeps_state = True  # the state of the generator

    def __init__(self, form: CodecSpec, dtype: torch.dtype, seed: int = 0) -> None:
        super().__init__(form, dtype, seed)
        (self._share,) = form.settings
        self._seed = seed
        self._generator: torch.Generator | None = None

    def encode(self, values: Tensor) -> Encoded:
        magnitudes = values.abs()
        mu, sigma, _, count = fit(magnitudes)
        pruned = self.prune(values, magnitudes, threshold(self._share, mu, sigma)) if count else values
        bits = pruned != 0
        self.nonzero_in += count
        self.nonzero_out += int(bits.sum())
        rows = pack_bits(bits)
        entries = as_bytes(pruned[bits][:, None])
        return Encoded(
            no_bytes(values, 1), rows, entries, splits=(len(values),), filled=(len(entries),), per_row=bits.sum(dim=1)
        )

    def decode(self, encoded: Encoded, width: int) -> Tensor:
        bits = unpack_bits(encoded.rows, width)
        values = as_values(encoded.entries, self.dtype).view(-1)
        return torch.zeros_like(bits, dtype=self.dtype).masked_scatter_(bits, values)

    def prune(self, values: Tensor, magnitudes: Tensor, a: float) -> Tensor:
        """Prune `values` at threshold `a`."""
        if self._generator is None:
            self._generator = torch.Generator(values.device).manual_seed(self._seed)
        draw = torch.rand(values.shape, generator=self._generator, dtype=values.dtype, device=values.device)
        # Draws are below 1, so a value that reaches `a` is always kept.
        kept = draw.mul_(a) < magnitudes
        # Multiplied rather than masked, so that a NaN is sent as a NaN.
        return torch.where(magnitudes < a, values.new_tensor(a).copysign(values), values) * kept
