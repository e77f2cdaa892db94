"""Scores of the held-out samples, computed on every rank. The scores of the best epoch are kept."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from des_ref.comm import Comm
from des_ref.data.batch import Examples
from des_ref.progress import Progress
from des_ref.strategies.base import Strategy
from dessim.errors import DessimError


def evaluate_epoch(
    progress: Progress, validation: Examples, test: Examples, *, comm: Comm, strategy: Strategy, batch: int
) -> dict[str, float | None]:
    """Validation scores, rounded to 5 digits. If they are the best so far, score the test samples and keep both.

    `batch` is the training batch, for objectives whose loss depends on it. Every rank calls it. Raises DessimError
    where the loss is not finite.
    """
    objective = strategy.network.objective
    auc, loss = objective.score(predict(validation, comm, strategy, batch), validation.labels)
    if not np.isfinite(loss):
        raise DessimError(
            f"training diverged in epoch {progress.epochs}: "
            "lower optimizer.rows.rate or optimizer.dense.lr in the settings"
        )
    score = torch.tensor([auc if auc is not None else -loss], dtype=torch.float64, device=comm.device)
    # All ranks must agree on when to stop, or the run hangs; rounding may differ between different machines.
    comm.broadcast("score", score)
    if float(score) > progress.best_score:
        progress.best_score = float(score)
        test_auc, test_loss = objective.score(predict(test, comm, strategy, batch), test.labels)
        progress.best = {
            "epoch": progress.epochs,
            "auc": test_auc,
            objective.loss_name: test_loss,
            "validation_auc": auc,
            f"validation_{objective.loss_name}": loss,
        }
    scores = {"validation_auc": auc, f"validation_{objective.loss_name}": loss}
    return {key: None if value is None else round(value, 5) for key, value in scores.items()}


def predict(examples: Examples, comm: Comm, strategy: Strategy, batch: int) -> Tensor:
    """The strategy's predictions for a data set, on every rank.

    Each rank looks up its share of each batch; the shares are padded with empty samples to the same size.
    """
    logits = []
    samples = strategy.network.objective.evaluation_batch or batch
    for start in range(0, len(examples), samples):
        count = min(samples, len(examples) - start)
        share = -(-count // comm.world_size)
        which = torch.arange(comm.rank * share, (comm.rank + 1) * share)
        which = torch.where(which < count, which + start, -1)
        logits.append(strategy.predict(examples.take(which).to(comm.device))[:count].cpu())
    return torch.cat(logits)
