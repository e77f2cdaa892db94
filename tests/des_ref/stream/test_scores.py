"""Binned scores against exact ones, and the sum over workers against one worker."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from des_ref import metrics
from des_ref.comm import Comm
from des_ref.stream.scores import MAX_LOGIT, Scores
from tests.des_ref.ranks import on_ranks


def rows(seed: int, count: int = 20_000, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(count, generator=generator, dtype=torch.float64)
    labels = (torch.rand(count, generator=generator) < torch.sigmoid(logits)).to(torch.float32)
    return logits, labels


def scores_of(logits: Tensor, labels: Tensor) -> Scores:
    scores = Scores()
    scores.add(logits, labels)
    return scores


@given(seed=st.integers(0, 1000), spread=st.sampled_from([1e-4, 0.01, 1.0, 5.0]), count=st.sampled_from([50, 5000]))
@settings(max_examples=30, deadline=None)
def test_exact_scores_are_within_the_stated_error(seed: int, spread: float, count: int) -> None:
    logits, labels = rows(seed, count, spread)
    scores = scores_of(logits, labels)
    exact = metrics.auc(logits.clamp(-MAX_LOGIT, MAX_LOGIT), labels)
    assert scores.auc is not None and scores.auc_error is not None and scores.logloss is not None
    assert abs(scores.auc - exact) <= scores.auc_error + 1e-12
    assert scores.logloss == pytest.approx(metrics.logloss(logits, labels), abs=1e-7)
    assert scores.auc_error < (2e-3 if spread >= 1 else 1)


def test_scores_are_bit_identical_for_any_order_and_split_of_rows() -> None:
    logits, labels = rows(1)
    whole, shuffled = scores_of(logits, labels), torch.randperm(len(logits), generator=torch.Generator().manual_seed(2))
    parts = Scores()
    for part in shuffled.split(777):
        parts.merge(scores_of(logits[part], labels[part]))
    assert torch.equal(parts.counts, whole.counts) and parts.loss == whole.loss
    assert (parts.auc, parts.logloss, parts.rows) == (whole.auc, whole.logloss, 20_000)


def test_without_both_classes_the_auc_is_undefined() -> None:
    assert (Scores().auc, Scores().logloss, Scores().auc_error) == (None, None, None)
    ones = scores_of(torch.zeros(3), torch.ones(3))
    assert ones.auc is None and ones.logloss == pytest.approx(0.693147, abs=1e-6)


def test_logits_beyond_the_bins_count_in_the_outer_bins() -> None:
    logits = torch.tensor([-1e30, float("-inf"), 1e30, float("inf"), MAX_LOGIT])
    scores = scores_of(logits, torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]))
    assert scores.rows == 5 and scores.auc == pytest.approx((1 / 2 + 2 * 1.5) / 6)
    assert scores.logloss is not None and scores.logloss == pytest.approx(2 * 1024 / 5, abs=1e-6)


def test_saved_scores_continue_bit_identically() -> None:
    scores = scores_of(*rows(3))
    again = Scores.from_json(json.loads(json.dumps(scores.to_json())))
    assert torch.equal(again.counts, scores.counts) and again.loss == scores.loss
    again.add(*rows(4))
    assert again.rows == 40_000


def _scores(comm: Comm) -> list[object]:
    logits, labels = rows(5)
    share = len(logits) // comm.world_size
    own = slice(comm.rank * share, (comm.rank + 1) * share)
    merged = scores_of(logits[own], labels[own]).summed(comm)
    return [merged.auc, merged.auc_error, merged.logloss, merged.rows, merged.loss]


def test_the_scores_of_two_workers_equal_those_of_one(tmp_path) -> None:  # type: ignore[no-untyped-def]
    whole = scores_of(*rows(5))
    for said in on_ranks(2, tmp_path, _scores):
        assert said == [whole.auc, whole.auc_error, whole.logloss, 20_000, whole.loss]
