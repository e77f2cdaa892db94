"""Training objectives: the loss of a model's tail, its targets, and the evaluation score.

Clicks    the tail returns logits [b]; the targets are labels [b]
Profiles  the tail returns [b, L + 1], a code and its own loss term; the targets are the number of ids in each bag, [b,
          F]. The codes are scored against the ids on the owners of their rows (strategies/scoring.py)
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from des_ref import metrics
from des_ref.data.batch import Batch
from des_ref.substitution.sums import tally
from dessim.workload.model import Model


class Objective(Protocol):
    """The loss to optimize, and the score.

    loss_name         name of the held-out loss in results
    evaluation_batch  samples of a forward pass in evaluation; None: as in training, because the loss depends on it
    """

    loss_name: str
    evaluation_batch: int | None

    def targets(self, batch: Batch) -> Tensor:
        """The values that the loss of these samples needs, 4 bytes each; the op `labels` sends them."""
        ...

    def loss(self, out: Tensor, targets: Tensor) -> Tensor:
        """The sum over samples of the part of the loss that the tail computes."""
        ...

    def score(self, predicted: Tensor, labels: Tensor) -> tuple[float | None, float]:
        """AUC, if defined, and mean loss of the predictions that `Strategy.predict` returned."""
        ...


class Clicks:
    """Binary cross-entropy of clicks."""

    loss_name = "logloss"
    evaluation_batch = 16_384

    def targets(self, batch: Batch) -> Tensor:
        return batch.labels

    def loss(self, out: Tensor, targets: Tensor) -> Tensor:
        return nnf.binary_cross_entropy_with_logits(out, targets.to(out.dtype), reduction="sum")

    def score(self, predicted: Tensor, labels: Tensor) -> tuple[float | None, float]:
        x = predicted.numpy()
        y = labels.numpy()
        return (metrics.auc(x, y) if 0 < y.sum() < len(y) else None), metrics.logloss(x, y)


class Profiles:
    """Negative evidence lower bound of user profiles."""

    loss_name = "loss"
    evaluation_batch = None

    def __init__(self, fields: int) -> None:
        self._fields = fields

    def targets(self, batch: Batch) -> Tensor:
        bags = tally(batch.sample * self._fields + batch.field, len(batch) * self._fields)
        return bags.view(-1, self._fields).to(torch.float32)

    def loss(self, out: Tensor, targets: Tensor) -> Tensor:
        return out[:, -1].sum()

    def score(self, predicted: Tensor, labels: Tensor) -> tuple[float | None, float]:
        return None, float(np.mean(predicted.numpy(), dtype=np.float64))


def objective_of(model: Model) -> Objective:
    """The objective that the operators of `model` call for."""
    return Clicks() if model.output is None else Profiles(model.input.fields)
