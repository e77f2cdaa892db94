"""AUC and log loss against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from des_ref.metrics import auc, logloss


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=50))
def test_auc_counts_pairs_and_halves_ties(rows: list[tuple[int, bool]]) -> None:
    positives = [s for s, y in rows if y]
    negatives = [s for s, y in rows if not y]
    scores, labels = [s for s, _ in rows], [y for _, y in rows]
    if not positives or not negatives:
        with pytest.raises(ValueError, match="both classes"):
            auc(scores, labels)
        return
    wins = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    assert auc(scores, labels) == pytest.approx(wins / (len(positives) * len(negatives)), abs=1e-12)


def test_logloss_equals_torchs_and_handles_large_logits() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 5, 1000), rng.integers(0, 2, 1000).astype(float)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(torch.from_numpy(x), torch.from_numpy(y))
    assert logloss(x, y) == pytest.approx(float(expected), abs=1e-12)
    assert logloss([1e4, -1e4], [1, 0]) == 0.0
