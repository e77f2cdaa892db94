"""Scores of held-out samples, on every rank; the best epoch's are kept."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from des_ref import metrics
from des_ref.comm import Comm
from des_ref.data.batch import Examples
from des_ref.strategies.base import Strategy
from des_ref.training.progress import Progress
from dessim.errors import DessimError

_EVALUATION_BATCH = 16_384  # samples a forward pass without gradients


def evaluate_epoch(
    progress: Progress, validation: Examples, test: Examples, comm: Comm, strategy: Strategy
) -> dict[str, float | None]:
    """Validation figures; when they are the best so far, the test is scored too and kept."""
    auc, logloss = _score(predict(validation, comm, strategy), validation)
    if not np.isfinite(logloss):
        raise DessimError(
            f"training diverged in epoch {progress.epochs}: "
            "lower optimizer.rows.rate or optimizer.dense.lr in the settings"
        )
    score = torch.tensor([auc if auc is not None else -logloss], dtype=torch.float64, device=comm.device)
    # Ranks must not disagree on when to stop; on one kind of machine they cannot, but a hang would be a poor message.
    comm.broadcast("score", score)
    if float(score) > progress.best_score:
        progress.best_score = float(score)
        test_auc, test_logloss = _score(predict(test, comm, strategy), test)
        progress.best = {
            "epoch": progress.epochs,
            "auc": test_auc,
            "logloss": test_logloss,
            "validation_auc": auc,
            "validation_logloss": logloss,
        }
    rounded = {"validation_auc": auc, "validation_logloss": logloss}
    return {key: None if value is None else round(value, 5) for key, value in rounded.items()}


def predict(examples: Examples, comm: Comm, strategy: Strategy) -> Tensor:
    """Logits of a data set, on every rank: each rank brings its share of each batch, padded with empty samples."""
    logits = []
    for start in range(0, len(examples), _EVALUATION_BATCH):
        count = min(_EVALUATION_BATCH, len(examples) - start)
        share = -(-count // comm.world_size)
        which = torch.arange(comm.rank * share, (comm.rank + 1) * share)
        which = torch.where(which < count, which + start, -1)
        logits.append(strategy.predict(examples.take(which).to(comm.device))[:count].cpu())
    return torch.cat(logits)


def _score(logits: Tensor, examples: Examples) -> tuple[float | None, float]:
    labels = examples.labels.numpy()
    both = 0 < labels.sum() < len(labels)
    return (metrics.auc(logits.numpy(), labels) if both else None), metrics.logloss(logits.numpy(), labels)
