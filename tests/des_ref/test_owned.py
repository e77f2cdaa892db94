"""Sums over occurrences of ids, forward and backward, against adding them one by one."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from des_ref.substitution.owned import Groups, OwnedOccurrences, RowIndex, different, in_order

SAMPLES, FIELDS, IDS, WIDTH = 4, 3, 5, 2
OCCURRENCES = st.lists(st.tuples(*(st.integers(0, n - 1) for n in (SAMPLES, FIELDS, IDS))), max_size=30)


def table(rows: int) -> Tensor:
    return torch.randn(rows, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()


@given(OCCURRENCES)
def test_samples_bags_and_pairs_are_summed(occurrences: list[tuple[int, int, int]]) -> None:
    sample, field, line = torch.tensor(occurrences, dtype=torch.int64).view(-1, 3).unbind(dim=1)
    held = OwnedOccurrences.of(sample, field, line, SAMPLES, FIELDS)
    terms = table(IDS)
    bag = sample * FIELDS + field
    filled = torch.unique(bag)
    assert torch.equal(held.pair_bag, filled) and torch.equal(held.bag, bag.sort().values)
    for groups, number, count in (
        (held.by_sample, sample, SAMPLES),
        (held.by_bag, bag, SAMPLES * FIELDS),
        (held.by_pair, torch.searchsorted(filled, bag), len(filled)),
    ):
        ours = held.sums(terms, groups)
        if count == SAMPLES:  # others get ready when they are asked
            held.lines.get_ready()
        theirs = terms.new_zeros(count, WIDTH).index_add(0, number, terms[line])
        weight = table(count).detach()
        grads = [torch.autograd.grad((sums * weight).sum(), terms)[0] for sums in (ours, theirs)]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
        torch.testing.assert_close(*grads, rtol=0, atol=1e-14)


# Some agree in their upper halves only.
@given(st.lists(st.sampled_from([-(2**63), -(2**32), -1, 0, 7, 2**32 - 1, 2**32, 2**63 - 1]), max_size=12))
def test_different_keys_are_those_of_torch_and_sorted_already(keys: list[int]) -> None:
    given_keys = torch.tensor(keys, dtype=torch.int64)
    unique, lines = different(given_keys)
    found, inverse = torch.unique(given_keys, return_inverse=True)
    assert torch.equal(unique, found) and torch.equal(lines.number, inverse)
    anew = RowIndex(inverse)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(lines.sorted, anew.sorted, strict=True))
    assert torch.equal(lines.starts(len(found)), anew.starts(len(found)))
    assert torch.equal(lines.starts(len(found) + 2)[: len(found)], anew.starts(len(found)))


def test_a_table_has_lines_that_nobody_reads() -> None:
    terms = table(IDS)
    number, line = in_order(torch.tensor([2, 0, 2]), torch.tensor([1, 3, 1]))
    assert number.tolist() == [0, 2, 2] and line.tolist() == [3, 1, 1]
    sums = RowIndex(line).sums(terms, Groups.of(number, 4))
    assert torch.equal(sums[1], torch.zeros(WIDTH)) and torch.equal(sums[2], 2 * terms[1])
    sums.sum().backward()
    assert terms.grad is not None and terms.grad[:, 0].tolist() == [0, 2, 0, 1, 0]
