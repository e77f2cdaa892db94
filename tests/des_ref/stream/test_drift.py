"""Generated rows: Zipf frequencies at any time, ids that appear and vanish, and the same row i on any worker."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from des_ref import metrics
from des_ref.data.batch import Batch
from des_ref.data.synthetic import dense_logits
from des_ref.stream.drift import Drift, zipf_ranks

FIELDS, VOCABULARY, LIFE = 3, 50, 2000
DRIFT = Drift(FIELDS, 1.0, VOCABULARY, 1.05, 7, LIFE)


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("ids", "sample", "field", "labels"))


@pytest.mark.parametrize("per_field", [1.0, 2.5])
def test_a_row_does_not_depend_on_the_batch_it_is_generated_in(per_field: float) -> None:
    drift = Drift(FIELDS, per_field, VOCABULARY, 1.05, 7, LIFE)
    whole = drift.batch(100, 60)
    parts = [drift.batch(100 + 20 * n, 20) for n in range(3)]
    assert torch.equal(torch.cat([part.ids for part in parts]), whole.ids)
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
    assert torch.equal(torch.cat([part.sample + 20 * n for n, part in enumerate(parts)]), whole.sample)
    assert not same(drift.batch(0, 60), whole)
    assert torch.equal(whole.sample.sort().values, whole.sample)


def test_every_field_has_an_id_and_the_mean_number_is_right() -> None:
    batch = Drift(FIELDS, 2.5, VOCABULARY, 1.05, 7, None).batch(0, 4000)
    sizes = torch.bincount(batch.sample * FIELDS + batch.field, minlength=4000 * FIELDS)
    assert int(sizes.min()) == 1 and abs(float(sizes.double().mean()) - 2.5) < 0.05


def test_ranks_have_zipfs_frequencies_at_any_time() -> None:
    """Shares of the most frequent ids of a field, in two windows far apart, against the law's own integral."""
    edges = np.arange(1, VOCABULARY + 2) ** -0.05
    law = (edges[:-1] - edges[1:]) / (edges[0] - edges[-1])
    still = Drift(FIELDS, 1.0, VOCABULARY, 1.05, 7, None).batch(0, 100_000)
    for drift, rows in ((DRIFT, 400), (Drift(FIELDS, 1.0, VOCABULARY, 1.05, 7, 10**9), 100_000)):
        for first in (0, 10_000_000):
            ids = drift.batch(first, rows).ids.view(-1, FIELDS)[:, 0].numpy()
            shares = np.sort(np.unique(ids, return_counts=True)[1])[::-1] / rows
            assert np.abs(shares[:5] - law[:5]).max() < (0.15 if rows == 400 else 0.01)
    shares = np.sort(np.unique(still.ids.view(-1, FIELDS)[:, 0].numpy(), return_counts=True)[1])[::-1] / 100_000
    assert np.abs(shares - law[: len(shares)]).max() < 0.01


def test_ids_live_for_their_life_and_never_return() -> None:
    """No id lives longer than LIFE rows, the number of living ids is constant, and ids are replaced one at a time."""
    rows = 10 * LIFE
    ids = DRIFT.batch(0, rows).ids.view(rows, FIELDS)
    for field in range(FIELDS):
        seen, at = torch.unique(ids[:, field], return_inverse=True)
        row = torch.arange(rows)
        first = torch.full((len(seen),), rows).scatter_reduce(0, at, row, "amin")
        last = torch.zeros(len(seen), dtype=torch.int64).scatter_reduce(0, at, row, "amax")
        assert int((last - first).max()) < LIFE
        assert 10 * VOCABULARY * 0.9 < len(seen) <= 11 * VOCABULARY
        tenths = [len(torch.unique(part)) for part in ids[:, field].split(LIFE)]
        assert max(tenths) - min(tenths) < VOCABULARY // 4
        # Ids present at one time are gone one life later.
        assert not np.isin(ids[:100, field].numpy(), ids[LIFE + 100 :, field].numpy()).any()


def test_labels_follow_the_teacher() -> None:
    """The teacher's logit predicts the label, and about half of the rows are clicks."""
    batch = DRIFT.batch(0, 20_000)
    weights = DRIFT._weights(batch.ids).view(-1, FIELDS).sum(dim=1)
    assert metrics.auc(weights, batch.labels) > 0.85
    assert 0.3 < float(batch.labels.mean()) < 0.7


def test_zipf_ranks_with_skew_zero_and_one() -> None:
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    assert torch.equal(torch.bincount(zipf_ranks(u, 4, 0.0)), torch.full((4,), 25_000))
    ones = torch.bincount(zipf_ranks(u, 4, 1.0)) / 100_000
    assert torch.allclose(ones, torch.log(torch.tensor([2.0, 3 / 2, 4 / 3, 5 / 4])) / np.log(5.0), atol=1e-4)


def test_generated_rows_have_the_same_dense_features_in_any_batch() -> None:
    drift = Drift(FIELDS, 1.0, VOCABULARY, 1.05, 7, LIFE, dense=4)
    whole, part = drift.batch(100, 4000), drift.batch(120, 20)
    assert whole.dense is not None and part.dense is not None and torch.equal(part.dense, whole.dense[20:40])
    assert float(whole.dense.mean()) == pytest.approx(1, abs=0.05)
    assert metrics.auc(dense_logits(whole.dense, FIELDS, 7).numpy(), whole.labels.numpy()) > 0.55
    plain = DRIFT.batch(100, 4000)
    assert torch.equal(plain.ids, whole.ids) and plain.dense is None
