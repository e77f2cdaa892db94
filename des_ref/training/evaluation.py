"""Scores of held-out samples, on every rank; the best epoch's are kept."""

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
    progress: Progress, validation: Examples, test: Examples, comm: Comm, strategy: Strategy, batch: int
) -> dict[str, float | None]:
    """Validation figures; when they are the best so far, the test is scored too and kept.

    `batch`: of training, for objectives whose loss depends on it.
    """
    objective = strategy.network.objective
    auc, loss = objective.score(predict(validation, comm, strategy, batch), validation.labels)
    if not np.isfinite(loss):
        raise DessimError(
            f"training diverged in epoch {progress.epochs}: "
            "lower optimizer.rows.rate or optimizer.dense.lr in the settings"
        )
    score = torch.tensor([auc if auc is not None else -loss], dtype=torch.float64, device=comm.device)
    # Ranks must not disagree on when to stop; on one kind of machine they cannot, but a hang would be a poor message.
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
    rounded = {"validation_auc": auc, f"validation_{objective.loss_name}": loss}
    return {key: None if value is None else round(value, 5) for key, value in rounded.items()}


def predict(examples: Examples, comm: Comm, strategy: Strategy, batch: int) -> Tensor:
    """What the strategy predicts of a data set, on every rank: each rank brings its share of each batch, padded with
    empty samples."""
    logits, samples = [], strategy.network.objective.evaluation_batch or batch
    for start in range(0, len(examples), samples):
        count = min(samples, len(examples) - start)
        share = -(-count // comm.world_size)
        which = torch.arange(comm.rank * share, (comm.rank + 1) * share)
        which = torch.where(which < count, which + start, -1)
        logits.append(strategy.predict(examples.take(which).to(comm.device))[:count].cpu())
    return torch.cat(logits)
