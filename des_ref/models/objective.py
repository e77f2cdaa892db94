"""What a model is trained to do: the loss of what its tail gives, what the loss is held against, and how it scores.

Clicks    the tail gives logits [b]; labels [b]
Profiles  the tail gives [b, L + 1], a code and what it costs; the ids themselves, of which a softmax needs how many
          each bag has, [b, F]. What codes say of the ids is scored where rows live (strategies/scoring.py)
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from des_ref import metrics
from des_ref.data.batch import Batch
from dessim.workload.model import Model


class Objective(Protocol):
    """`loss_name`: what its held-out loss is called. `evaluation_batch`: samples a forward pass without gradients;
    None: as many as in training, because the loss depends on it."""

    loss_name: str
    evaluation_batch: int | None

    def targets(self, batch: Batch) -> Tensor:
        """What whoever computes the loss of these samples must know of them, 4 bytes a value: the op `labels`."""
        ...

    def loss(self, out: Tensor, targets: Tensor) -> Tensor:
        """The sum over samples of the tail's part of their loss."""
        ...

    def score(self, predicted: Tensor, labels: Tensor) -> tuple[float | None, float]:
        """AUC, where there is one, and mean loss of what `Strategy.predict` gave for samples."""
        ...


class Clicks:
    """Binary cross-entropy."""

    loss_name, evaluation_batch = "logloss", 16_384

    def targets(self, batch: Batch) -> Tensor:
        return batch.labels

    def loss(self, out: Tensor, targets: Tensor) -> Tensor:
        return nnf.binary_cross_entropy_with_logits(out, targets.to(out.dtype), reduction="sum")

    def score(self, predicted: Tensor, labels: Tensor) -> tuple[float | None, float]:
        x, y = predicted.numpy(), labels.numpy()
        return (metrics.auc(x, y) if 0 < y.sum() < len(y) else None), metrics.logloss(x, y)


class Profiles:
    """Negative evidence lower bound."""

    loss_name, evaluation_batch = "loss", None

    def __init__(self, fields: int) -> None:
        self._fields = fields

    def targets(self, batch: Batch) -> Tensor:
        bags = torch.bincount(batch.sample * self._fields + batch.field, minlength=len(batch) * self._fields)
        return bags.view(-1, self._fields).to(torch.float32)

    def loss(self, out: Tensor, targets: Tensor) -> Tensor:
        return out[:, -1].sum()

    def score(self, predicted: Tensor, labels: Tensor) -> tuple[float | None, float]:
        return None, float(np.mean(predicted.numpy(), dtype=np.float64))


def objective_of(model: Model) -> Objective:
    return Clicks() if model.output is None else Profiles(model.input.fields)
