"""Progressive scores: AUC and log loss of predictions made for rows before they are trained on.

Logits of positives and of negatives are counted in bins. The AUC is that of logits rounded to their bins; ties count
half. It differs from the exact AUC by at most half the share of (positive, negative) pairs in the same bin, which is
reported as its error. Losses are summed as whole multiples of 2**-24 nats. All sums are integers, so the sum over
workers is bit-identical to that of one worker, in any order.

Memory: two counts per bin, 512 KiB, for any number of rows.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from des_ref.comm import Comm

BINS = 1 << 15
MAX_LOGIT = 16.0  # bins cover logits from -16 to 16 and are 1/1024 wide; the outer bins also count logits beyond
_UNITS_PER_NAT = 2.0**24
_MAX_LOSS_LOGIT = 2.0**10  # logits are clipped to this for the loss, which bounds a row's loss in nats


def _zeros() -> Tensor:
    return torch.zeros(2, BINS, dtype=torch.int64)


@dataclass(slots=True)
class Scores:
    """`counts`: int64 [2, BINS], of negatives and positives. `loss`: the sum of losses in units of 2**-24 nats."""

    counts: Tensor = field(default_factory=_zeros)
    loss: int = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add logits and labels [b] of rows that have not been trained on. Logits must not be NaN."""
        x = logits.detach().to("cpu", torch.float64).clamp(-_MAX_LOSS_LOGIT, _MAX_LOSS_LOGIT)
        y = labels.to("cpu")
        losses = nnf.binary_cross_entropy_with_logits(x, y.to(torch.float64), reduction="none")
        self.loss += int((losses * _UNITS_PER_NAT).round_().to(torch.int64).sum())
        bin_of_row = ((x + MAX_LOGIT) * (BINS / (2 * MAX_LOGIT))).floor_().clamp_(0, BINS - 1).to(torch.int64)
        bin_of_row += (y > 0.5).to(torch.int64) * BINS
        self.counts.view(-1).index_add_(0, bin_of_row, torch.ones_like(bin_of_row))

    def merge(self, other: Scores) -> None:
        """Add the rows of `other`."""
        self.counts += other.counts
        self.loss += other.loss

    def summed(self, comm: Comm) -> Scores:
        """The sum over workers. Every worker calls it; `comm` is on the CPU."""
        if comm.world_size == 1:
            return self
        numbers = torch.cat([self.counts.view(-1), torch.tensor([self.loss])])
        comm.all_reduce("scores", numbers).wait()
        return Scores(numbers[:-1].view(2, BINS), int(numbers[-1]))

    @property
    def rows(self) -> int:
        """Rows added so far."""
        return int(self.counts.sum())

    @property
    def logloss(self) -> float | None:
        """Mean in nats; None without rows."""
        return self.loss / _UNITS_PER_NAT / self.rows if self.rows else None

    @property
    def auc(self) -> float | None:
        """None where it is undefined: without rows of both classes."""
        if self._pairs == 0:
            return None
        return float((self._ordered_pairs() + self._tied_pairs() / 2) / self._pairs)

    @property
    def auc_error(self) -> float | None:
        """The largest possible difference of `auc` from the AUC of the logits themselves, clipped to [-16, 16)."""
        return None if self._pairs == 0 else float(self._tied_pairs() / 2 / self._pairs)

    @property
    def _pairs(self) -> int:
        """(positive, negative) pairs."""
        negatives, positives = self.counts.sum(dim=1).tolist()
        return int(negatives * positives)

    def _ordered_pairs(self) -> float:
        """Pairs whose negative is in a lower bin than their positive."""
        negatives, positives = self.counts.numpy().astype(np.float64)
        return float((positives * (negatives.cumsum() - negatives)).sum())

    def _tied_pairs(self) -> float:
        """Pairs in the same bin."""
        negatives, positives = self.counts.numpy().astype(np.float64)
        return float((positives * negatives).sum())

    def to_json(self) -> dict[str, Any]:
        packed = zlib.compress(self.counts.numpy().astype("<i8").tobytes(), 6)
        return {"counts": base64.b64encode(packed).decode(), "loss": self.loss}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        raw = zlib.decompress(base64.b64decode(saved["counts"]))
        counts = np.frombuffer(raw, "<i8").astype(np.int64).reshape(2, BINS)
        return cls(torch.from_numpy(counts), saved["loss"])
