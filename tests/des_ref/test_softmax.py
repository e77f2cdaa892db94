"""The sharded softmax against one softmax a field: values and gradients, for any split of the ids over workers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from des_ref.substitution.owned import OwnedOccurrences
from des_ref.substitution.softmax import Candidates, Scores, likelihoods

SAMPLES, FIELDS, VOCABULARY, LATENT = 4, 3, 9, 2
OCCURRENCES = st.lists(
    st.tuples(st.integers(0, SAMPLES - 1), st.integers(0, FIELDS - 1), st.integers(0, VOCABULARY - 1)), max_size=40
)
Occurrences = list[tuple[int, int, int]]


def columns(occurrences: Occurrences) -> tuple[Tensor, Tensor, Tensor]:
    sample, field, index = torch.tensor(occurrences, dtype=torch.int64).reshape(-1, 3).T
    return sample, field, index


def random(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(codes: Tensor, outputs: Tensor, alpha: Tensor, occurrences: Occurrences) -> Tensor:
    """Negative log likelihoods [B], id by id, as the docstring of substitution/softmax.py defines them."""
    losses = [0 * codes[b].sum() for b in range(SAMPLES)]
    for sample, field, i in occurrences:
        candidates = sorted({j for _, f, j in occurrences if f == field})
        scores = {j: codes[sample] @ outputs[j, :-1] + outputs[j, -1] for j in candidates}
        total = torch.logsumexp(torch.stack(list(scores.values())), dim=0)
        losses[sample] = losses[sample] + alpha[field] * (total - scores[i])
    return torch.stack(losses)


def sharded(
    codes: Tensor, outputs: Tensor, alpha: Tensor, occurrences: Occurrences, workers: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [B] and the gradients of their mean with respect to outputs and codes.

    Worker p owns the ids i with i % workers == p; workers exchange only a maximum and two sums.
    """
    sample, field, index = columns(occurrences)
    counts = torch.bincount(sample * FIELDS + field, minlength=SAMPLES * FIELDS).view(SAMPLES, FIELDS).to(codes.dtype)
    scores, candidates, mine = [], [], []
    for p in range(workers):
        own = index % workers == p
        unique, inverse = torch.unique(index[own], return_inverse=True)
        owned = OwnedOccurrences.of(sample[own], field[own], inverse, SAMPLES, FIELDS)
        candidates.append(Candidates.of(owned, len(unique), FIELDS))
        mine.append(unique[candidates[p].row])
        scores.append(Scores(codes, outputs[mine[p]], candidates[p]))
    largest = torch.stack([s.largest() for s in scores]).amax(dim=0)
    sums = torch.stack([s.sums(largest) for s in scores]).sum(dim=0)
    outputs_grad, codes_grad = torch.zeros_like(outputs), torch.zeros_like(codes)
    for p in range(workers):
        candidates_grad, codes_part = scores[p].gradients(sums, counts, alpha / SAMPLES)
        outputs_grad.index_add_(0, mine[p], candidates_grad)
        codes_grad += codes_part
    return likelihoods(sums, counts, alpha), outputs_grad, codes_grad


def assert_same(codes: Tensor, outputs: Tensor, alpha: Tensor, occurrences: Occurrences, workers: int) -> None:
    leaves = [outputs.clone().requires_grad_(), codes.clone().requires_grad_()]
    losses = whole(leaves[1], leaves[0], alpha, occurrences)
    theirs = [losses.detach(), *torch.autograd.grad(losses.mean(), leaves, materialize_grads=True)]
    for a, b in zip(sharded(codes, outputs, alpha, occurrences, workers), theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@given(OCCURRENCES, st.integers(1, 4), st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_the_sharded_softmax_equals_the_whole_one(occurrences: Occurrences, workers: int, seed: int) -> None:
    codes, outputs = random(SAMPLES, LATENT, seed=seed), random(VOCABULARY, LATENT + 1, seed=seed + 100)
    assert_same(codes, outputs, random(FIELDS, seed=seed + 200).abs(), occurrences, workers)


def test_large_logits_do_not_overflow() -> None:
    """e^800 overflows a float64: without the maximum over all workers, sums would be infinite."""
    codes, outputs = random(SAMPLES, LATENT, seed=1, scale=30.0), random(VOCABULARY, LATENT + 1, seed=2, scale=30.0)
    occurrences = [(b, f, (3 * b + f) % VOCABULARY) for b in range(SAMPLES) for f in range(FIELDS)]
    assert float((codes @ outputs[:, :-1].T).max()) > 800
    assert_same(codes, outputs, torch.ones(FIELDS, dtype=torch.float64), occurrences, 3)


def test_an_id_of_two_fields_is_a_candidate_of_both() -> None:
    owned = OwnedOccurrences.of(*(torch.tensor(x) for x in ([0, 0, 1], [0, 2, 2], [0, 0, 1])), SAMPLES, FIELDS)
    candidates = Candidates.of(owned, 2, FIELDS)
    assert candidates.row.tolist() == [0, 0, 1] and candidates.sizes == (1, 0, 2)
    assert candidates.candidate.tolist() == [0, 1, 2]


@pytest.mark.parametrize("workers", [1, 3])
def test_an_empty_batch_has_zero_loss_and_gradients(workers: int) -> None:
    codes, outputs = random(SAMPLES, LATENT, seed=1), random(VOCABULARY, LATENT + 1, seed=2)
    losses, outputs_grad, codes_grad = sharded(codes, outputs, torch.ones(FIELDS, dtype=torch.float64), [], workers)
    assert not losses.any() and not outputs_grad.any() and not codes_grad.any()
