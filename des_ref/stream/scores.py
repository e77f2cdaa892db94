"""Progressive scores: AUC and log loss of what was predicted of rows before they were trained on.

Logits are counted in bins, of positives and of negatives; the AUC is that of logits rounded to their bins, ties
counting half. It is off from the exact one by at most half the share of (positive, negative) pairs that share a bin,
which is given beside it. Losses are summed as whole numbers of 2**-24 nats. All sums are integers, so workers' add up
to those of one, whatever the order, to the last bit.

Memory: two counts a bin, 512 KiB, however many rows.
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

BINS, LARGEST = 1 << 15, 16.0  # over logits from -16 to 16, and beyond at both ends: a bin is 1/1024 wide
_UNIT = 2.0**24
_FARTHEST = 2.0**10  # a logit beyond counts as that, so a row's loss is no more than so many nats


def _zeros() -> Tensor:
    return torch.zeros(2, BINS, dtype=torch.int64)


@dataclass(slots=True)
class Scores:
    """`counts` int64 [2, BINS], of negatives and positives; `loss` the sum in 2**-24 nats."""

    counts: Tensor = field(default_factory=_zeros)
    loss: int = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Of rows [b] that have not been trained on. Logits must be numbers."""
        x = logits.detach().to("cpu", torch.float64).clamp(-_FARTHEST, _FARTHEST)
        y = labels.to("cpu")
        losses = nnf.binary_cross_entropy_with_logits(x, y.to(torch.float64), reduction="none")
        self.loss += int((losses * _UNIT).round_().to(torch.int64).sum())
        at = ((x + LARGEST) * (BINS / (2 * LARGEST))).floor_().clamp_(0, BINS - 1).to(torch.int64)
        at += (y > 0.5).to(torch.int64) * BINS
        self.counts.view(-1).index_add_(0, at, torch.ones_like(at))

    def merge(self, other: Scores) -> None:
        self.counts += other.counts
        self.loss += other.loss

    def of_all(self, comm: Comm) -> Scores:
        """The sum over workers; each calls it. `comm` is on the CPU."""
        if comm.world_size == 1:
            return self
        numbers = torch.cat([self.counts.view(-1), torch.tensor([self.loss])])
        comm.all_reduce("scores", numbers).wait()
        return Scores(numbers[:-1].view(2, BINS), int(numbers[-1]))

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    @property
    def logloss(self) -> float | None:
        """Mean, in nats; None without rows."""
        return self.loss / _UNIT / self.rows if self.rows else None

    @property
    def auc(self) -> float | None:
        """None where there is none: without rows of both classes."""
        return None if self._pairs == 0 else float((self._of_lower() + self._of_equal() / 2) / self._pairs)

    @property
    def auc_error(self) -> float | None:
        """How far `auc` may be from that of the logits themselves, clipped to [-16, 16), at most."""
        return None if self._pairs == 0 else float(self._of_equal() / 2 / self._pairs)

    @property
    def _pairs(self) -> int:
        negatives, positives = self.counts.sum(dim=1).tolist()
        return int(negatives * positives)

    def _of_lower(self) -> float:
        """Pairs whose negative has a lower bin."""
        negatives, positives = self.counts.numpy().astype(np.float64)
        return float((positives * (negatives.cumsum() - negatives)).sum())

    def _of_equal(self) -> float:
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
