"""Sums over owned occurrences, forward and backward, against index_add."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from des_ref.substitution.owned import OwnedOccurrences, sorted_by, unique_with_index
from des_ref.substitution.sums import Groups, RowIndex

SAMPLES, FIELDS, IDS, WIDTH = 4, 3, 5, 2
OCCURRENCES = st.lists(st.tuples(*(st.integers(0, n - 1) for n in (SAMPLES, FIELDS, IDS))), max_size=30)


def table(rows: int) -> Tensor:
    return torch.randn(rows, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()


@given(OCCURRENCES)
def test_sums_over_samples_bags_and_pairs_match_index_add(occurrences: list[tuple[int, int, int]]) -> None:
    sample, field, row = torch.tensor(occurrences, dtype=torch.int64).view(-1, 3).unbind(dim=1)
    owned = OwnedOccurrences.of(sample, field, row, SAMPLES, FIELDS)
    terms = table(IDS)
    bag = sample * FIELDS + field
    filled = torch.unique(bag)
    assert torch.equal(owned.pair_bag, filled) and torch.equal(owned.bag, bag.sort().values)
    for groups, group_of, count in (
        (owned.by_sample, sample, SAMPLES),
        (owned.by_bag, bag, SAMPLES * FIELDS),
        (owned.by_pair, torch.searchsorted(filled, bag), len(filled)),
    ):
        ours = owned.sums(terms, groups)
        if count == SAMPLES:  # the other groupings compute their indices on demand
            owned.row_index.prepare_backward()
        theirs = terms.new_zeros(count, WIDTH).index_add(0, group_of, terms[row])
        weight = table(count).detach()
        grads = [torch.autograd.grad((sums * weight).sum(), terms)[0] for sums in (ours, theirs)]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
        torch.testing.assert_close(*grads, rtol=0, atol=1e-14)


# Some keys differ only in their lower halves.
@given(st.lists(st.sampled_from([-(2**63), -(2**32), -1, 0, 7, 2**32 - 1, 2**32, 2**63 - 1]), max_size=12))
def test_unique_keys_match_torch_and_come_with_the_order_by_row(keys: list[int]) -> None:
    given_keys = torch.tensor(keys, dtype=torch.int64)
    unique, row_index = unique_with_index(given_keys)
    expected, inverse = torch.unique(given_keys, return_inverse=True)
    assert torch.equal(unique, expected) and torch.equal(row_index.row, inverse)
    computed = RowIndex(inverse)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(row_index.by_row, computed.by_row, strict=True))
    assert torch.equal(row_index.starts(len(unique)), computed.starts(len(unique)))
    assert torch.equal(row_index.starts(len(unique) + 2)[: len(unique)], computed.starts(len(unique)))


def test_rows_and_groups_without_occurrences_get_zeros() -> None:
    terms = table(IDS)
    group_of, row = sorted_by(torch.tensor([2, 0, 2]), torch.tensor([1, 3, 1]))
    assert group_of.tolist() == [0, 2, 2] and row.tolist() == [3, 1, 1]
    sums = RowIndex(row).sums(terms, Groups.of(group_of, 4))
    assert torch.equal(sums[1], torch.zeros(WIDTH)) and torch.equal(sums[2], 2 * terms[1])
    sums.sum().backward()
    assert terms.grad is not None and terms.grad[:, 0].tolist() == [0, 2, 0, 1, 0]
