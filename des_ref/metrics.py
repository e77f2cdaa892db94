"""Exact AUC and log loss, on numpy arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: the probability that a positive scores above a negative; ties count half.

    Computed as Mann-Whitney's U from average ranks. Raises ValueError when a class is missing: AUC is undefined then.
    """
    score = np.asarray(scores, dtype=np.float64)
    label = np.asarray(labels) > 0.5
    positives = int(label.sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        raise ValueError("AUC needs both classes")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    average_rank = last - (counts - 1) / 2  # of each distinct score; ranks start at 1
    rank_sum = float(average_rank[inverse][label].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def logloss(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean cross-entropy in nats from logits: log(1 + exp(-|x|)) + max(x, 0) - x y, which cannot overflow."""
    x = np.asarray(logits, dtype=np.float64)
    y = np.asarray(labels, dtype=np.float64)
    return float(np.mean(np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0) - x * y))
