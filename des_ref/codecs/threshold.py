"""Sends values that reach a threshold and adds the rest to the next step's values (error feedback).

    f = g + residual    sent: f where |f| >= tau    residual = f - sent
    tau is chosen every `refresh` steps so that a share 1 - eta of |f| reaches it

This is DCT-DP of Gupta et al., KDD 2021 (arXiv 2010.08899). Choosing tau needs a selection over all values, comparing
with it does not, so it is chosen once every few thousand steps; in between, the number of values sent varies. An entry
is a value's position, an int32, and the value. A message is one vector, the gradient of replicated weights, so that a
residual is added to the gradient of the same weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from des_ref.codecs.base import Codec
from des_ref.codecs.message import Encoded, as_bytes, as_values, no_bytes
from dessim.workload.codecs import CodecSpec


class Threshold(Codec):
    """Keeps the threshold `tau` and the `residual` that has not been sent yet."""

    keeps_state = True

    def __init__(self, form: CodecSpec, dtype: torch.dtype, seed: int = 0) -> None:
        super().__init__(form, dtype, seed)
        self._held_back, refresh = form.settings  # share of the values that is not sent
        self._refresh = int(refresh)
        self._step = 0
        self.residual: Tensor | None = None
        self.tau = 0.0

    def encode(self, values: Tensor) -> Encoded:
        full = values if self.residual is None else values + self.residual
        magnitudes = full.abs()
        if self._step % self._refresh == 0:
            below = min(int(self._held_back * magnitudes.numel()), magnitudes.numel() - 1)
            self.tau = float(magnitudes.flatten().kthvalue(below + 1).values)
        self._step += 1
        # `~(a < tau)` rather than `a >= tau`, so that a NaN is sent. Zeros are not, even if tau is 0.
        sent = ~(magnitudes < self.tau) & (full != 0)
        self.residual = full.masked_fill(sent, 0)
        position = sent.nonzero()[:, 1].to(torch.int32)
        entries = torch.cat([as_bytes(position[:, None]), as_bytes(full[sent][:, None])], dim=1)
        rows = no_bytes(values, len(values))
        return Encoded(
            no_bytes(values, 1), rows, entries, splits=(len(values),), filled=(len(entries),), per_row=sent.sum(dim=1)
        )

    def decode(self, encoded: Encoded, width: int) -> Tensor:
        """Decode received messages of one row each, or one that `encode` returned."""
        out = torch.zeros(len(encoded.rows), width, dtype=self.dtype, device=encoded.rows.device)
        counts = encoded.per_row
        if counts is None:
            counts = torch.tensor(encoded.filled, device=out.device)
        row = torch.arange(len(out), device=out.device).repeat_interleave(counts)
        position = as_values(encoded.entries[:, :4], torch.int32)[:, 0].long()
        return out.index_put_((row, position), as_values(encoded.entries[:, 4:], self.dtype)[:, 0])
