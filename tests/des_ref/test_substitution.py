"""Each substituted operator against its reference: values and gradients, for any split of the rows over workers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from des_ref.substitution import fc1, fm, lr
from des_ref.substitution.held import Held

SAMPLES, FIELDS, VOCABULARY, WIDTH, HIDDEN = 5, 3, 12, 4, 6
# Occurrences: (sample, field, id); repeats of one id in one sample are legal.
OCCURRENCES = st.lists(
    st.tuples(st.integers(0, SAMPLES - 1), st.integers(0, FIELDS - 1), st.integers(0, VOCABULARY - 1)), max_size=60
)


def columns(occurrences: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    sample, field, index = torch.tensor(occurrences, dtype=torch.int64).reshape(-1, 3).T
    return sample, field, index


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def summed(occurrences: list[tuple[int, int, int]], workers: int, partial: Callable[[Tensor, Held], Tensor]) -> Tensor:
    """The sum of the workers' partials; worker p owns the ids i with i % workers == p."""
    sample, field, index = columns(occurrences)
    total = None
    for p in range(workers):
        mine = index % workers == p
        unique, inverse = torch.unique(index[mine], return_inverse=True)
        held = Held.of(sample[mine], field[mine], inverse, SAMPLES, FIELDS, pairs=True)
        part = partial(unique[inverse], held)
        total = part if total is None else total + part
    assert total is not None
    return total


def assert_same(ours: Tensor, theirs: Tensor, parameters: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weight = torch.linspace(-1, 1, ours.numel(), dtype=torch.float64).view_as(ours)
    for a, b in zip(*(_grads((y * weight).sum(), parameters) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def _grads(value: Tensor, parameters: list[Tensor]) -> tuple[Tensor, ...]:
    if not value.requires_grad:
        return tuple(torch.zeros_like(p) for p in parameters)
    return torch.autograd.grad(value, parameters, materialize_grads=True, retain_graph=True)


@given(OCCURRENCES, st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_lr(occurrences: list[tuple[int, int, int]], workers: int) -> None:
    w = random(VOCABULARY, 1)
    sample, _, index = columns(occurrences)
    counts = torch.zeros(SAMPLES, VOCABULARY, dtype=torch.float64)
    counts = counts.index_put((sample, index), torch.ones(len(index), dtype=torch.float64), accumulate=True)
    ours = lr.finish(summed(occurrences, workers, lambda ids, held: lr.partial(w[ids], held)))
    assert_same(ours, lr.reference(w, counts), [w])
    assert_same(ours, lr.reference_sparse(w, index, sample, SAMPLES), [w])


@given(OCCURRENCES, st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_fm(occurrences: list[tuple[int, int, int]], workers: int) -> None:
    v = random(VOCABULARY, WIDTH)
    sample, _, index = columns(occurrences)
    ours = fm.finish(summed(occurrences, workers, lambda ids, held: fm.partial(v[ids], held)))
    assert_same(ours, fm.reference(v, index, sample, SAMPLES), [v])


@given(OCCURRENCES)
@settings(deadline=None, max_examples=20)
def test_fm_reference_is_the_sum_over_pairs(occurrences: list[tuple[int, int, int]]) -> None:
    v = random(VOCABULARY, WIDTH)
    sample, _, index = columns(occurrences)
    brute = [
        sum((v[i] @ v[j] for i, j in combinations(index[sample == b].tolist(), 2)), torch.zeros((), dtype=v.dtype))
        for b in range(SAMPLES)
    ]
    torch.testing.assert_close(fm.reference(v, index, sample, SAMPLES), torch.stack(brute), rtol=0, atol=1e-12)


@given(OCCURRENCES, st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_fc1(occurrences: list[tuple[int, int, int]], workers: int) -> None:
    v, w1 = random(VOCABULARY, WIDTH), random(HIDDEN, FIELDS * WIDTH, seed=1)
    sample, field, index = columns(occurrences)
    ours = fc1.finish(summed(occurrences, workers, lambda ids, held: fc1.partial(v[ids], held, w1)))
    assert_same(ours, fc1.reference(v, index, sample, field, SAMPLES, w1), [v, w1])


def test_fc1_works_on_occupied_pairs_only() -> None:
    """The plan prices 2 * D * H1 FLOPs a (sample, field) pair: not B * F pairs, and not one for each id."""
    occurrences = [(0, 0, 1), (0, 0, 2), (3, 0, 1), (2, 2, 5)]
    sample, field, index = columns(occurrences)
    held = Held.of(sample, field, torch.arange(4), SAMPLES, FIELDS, pairs=True)
    assert len(held.pair_sample) == 3 and held.field_pairs == (2, 0, 1)
    v, w1 = random(VOCABULARY, WIDTH), random(HIDDEN, FIELDS * WIDTH)
    with FlopCounterMode(display=False) as counter:
        fc1.partial(v[index], held, w1)
    assert counter.get_total_flops() == 3 * 2 * WIDTH * HIDDEN


def test_fm_over_pooled_fields_is_not_this_operator() -> None:
    """The trap that the docstring names: pooling first changes q."""
    v = random(VOCABULARY, WIDTH)
    sample, index = torch.zeros(3, dtype=torch.int64), torch.tensor([1, 2, 3])
    pooled = torch.stack([v[1] + v[2], v[3]])  # ids 1 and 2 are of one field
    field_level = (pooled.sum(0).square().sum() - pooled.square().sum()) / 2
    assert float((fm.reference(v, index, sample, 1)[0] - field_level).detach()) == pytest.approx(
        float((v[1] @ v[2]).detach())
    )
