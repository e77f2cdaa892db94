"""What reaches a threshold is sent; the rest waits, added to the next step's values (error feedback).

    f = g + residual    sent: f where |f| >= tau    residual = f - sent
    tau, every so many steps: what a share 1 - eta of |f| reaches

DCT-DP of Gupta et al., KDD 2021 (arXiv 2010.08899): finding tau sorts, comparing with it does not, so it is found once
every few thousand steps. Between, how much is sent depends on the values. An entry is its place, an int32, and its
value. A message is one vector, the gradient of replicated weights: what waits is added to the same weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.codecs.base import Codec
from des_ref.codecs.message import Encoded, as_bytes, as_values, no_bytes
from dessim.workload.codecs import CodecSpec


class Threshold(Codec):
    """Of one worker and one op: what it has not sent yet, and its threshold."""

    keeps_state = True

    def __init__(self, form: CodecSpec, dtype: torch.dtype, seed: int = 0) -> None:
        super().__init__(form, dtype, seed)
        self._share, refresh = form.settings
        self._refresh, self._step = int(refresh), 0
        self.residual: Tensor | None = None
        self.tau = 0.0

    def encode(self, values: Tensor) -> Encoded:
        full = values if self.residual is None else values + self.residual
        magnitudes = full.abs()
        if self._step % self._refresh == 0:
            waits = min(int(self._share * magnitudes.numel()), magnitudes.numel() - 1)
            self.tau = float(magnitudes.flatten().kthvalue(waits + 1).values)
        self._step += 1
        # Not `>=`: a NaN is sent. Not zeros, where tau is 0.
        sent = ~(magnitudes < self.tau) & (full != 0)
        self.residual = full.masked_fill(sent, 0)
        place = sent.nonzero()[:, 1].to(torch.int32)
        entries = torch.cat([as_bytes(place[:, None]), as_bytes(full[sent][:, None])], dim=1)
        rows = no_bytes(values, len(values))
        return Encoded(no_bytes(values, 1), rows, entries, (len(values),), (len(entries),), sent.sum(dim=1))

    def decode(self, encoded: Encoded, width: int) -> Tensor:
        """Of messages that have one row each, or were made here."""
        out = torch.zeros(len(encoded.rows), width, dtype=self.dtype, device=encoded.rows.device)
        here = encoded.per_row
        counts = torch.tensor(encoded.filled, device=out.device) if here is None else here
        row = torch.arange(len(out), device=out.device).repeat_interleave(counts)
        place = as_values(encoded.entries[:, :4], torch.int32)[:, 0].long()
        return out.index_put_((row, place), as_values(encoded.entries[:, 4:], self.dtype)[:, 0])
