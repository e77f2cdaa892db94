"""Small values become 0 or a threshold at random, right on average (Chmiel et al., arXiv 2006.08173, second method).

    |g| >= a    g
    |g| <  a    a sign(g) with probability |g| / a, else 0          so E[sent] = g

The threshold a is the one that makes the wanted share of log-normal values 0; mu and sigma are those of the values that
are not zero already (lognormal.py). A message has a bit a value that says which are not zero, then these.

What is random follows from the seed, the worker, the op and how many steps it has taken.
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
    """Of one worker and one op."""

    keeps_state = True  # of a generator

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
        rows, entries = pack_bits(bits), as_bytes(pruned[bits][:, None])
        return Encoded(no_bytes(values, 1), rows, entries, (len(values),), (len(entries),), bits.sum(dim=1))

    def decode(self, encoded: Encoded, width: int) -> Tensor:
        bits = unpack_bits(encoded.rows, width)
        values = as_values(encoded.entries, self.dtype).view(-1)
        return torch.zeros_like(bits, dtype=self.dtype).masked_scatter_(bits, values)

    def prune(self, values: Tensor, magnitudes: Tensor, a: float) -> Tensor:
        """At the threshold `a`."""
        if self._generator is None:
            self._generator = torch.Generator(values.device).manual_seed(self._seed)
        draw = torch.rand(values.shape, generator=self._generator, dtype=values.dtype, device=values.device)
        # A draw below 1: whatever reaches `a` stays. Multiplied, not masked: a NaN stays, too.
        stays = draw.mul_(a) < magnitudes
        return torch.where(magnitudes < a, values.new_tensor(a).copysign(values), values) * stays
