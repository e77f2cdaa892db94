"""The hash table against a dict, initial values of rows, and their updates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from des_ref.embedding.hash_table import RowTable
from des_ref.embedding.init import normal_rows
from des_ref.embedding.optim import RowAdagrad
from des_ref.hashing import feature_id, mix64, mix64_int, owner_of, text_key
from dessim.errors import UsageError

INT64 = st.integers(-(2**63), 2**63 - 1)
# A few small ids as well, so that repeats across batches are common.
BATCHES = st.lists(st.lists(st.one_of(INT64, st.integers(-20, 20)), unique=True, max_size=60), max_size=8)


def new_table(width: int = 3) -> RowTable:
    return RowTable(
        {"v": width, "v_sum": 1}, lambda ids: {"v": normal_rows(ids, width, 1, 0.1, torch.float64)}, torch.float64
    )


def tensor(ids: list[int]) -> Tensor:
    return torch.tensor(ids, dtype=torch.int64)


@given(BATCHES)
@settings(deadline=None, max_examples=60)
def test_table_behaves_like_a_dict(batches: list[list[int]]) -> None:
    table, model = new_table(), {}
    for batch in batches:
        known = table.find(tensor(batch)).tolist()
        assert known == [model.get(i, -1) for i in batch]
        rows = table.find_or_insert(tensor(batch)).tolist()
        for i in batch:
            model.setdefault(i, len(model))
        assert rows == [model[i] for i in batch]
    assert len(table) == len(model)
    assert table.keys.tolist() == list(model)


def test_initial_values_survive_growth() -> None:
    table = new_table()
    ids = torch.from_numpy(np.random.default_rng(0).permutation(50_000)).to(torch.int64)
    first = table.find_or_insert(ids[:700])
    table.columns["v"][first] += 1
    for chunk in ids.split(3_000):
        table.find_or_insert(chunk)
    assert len(table) == 50_000
    rows = table.find(ids)
    assert torch.equal(table.keys[rows], ids)
    expected = normal_rows(ids, 3, 1, 0.1, torch.float64)
    expected[:700] += 1
    assert torch.equal(table.columns["v"][rows], expected)


def test_the_rows_of_two_tables_are_loaded_into_three() -> None:
    """Rows saved by 2 workers and loaded by 3: every key is on its owner, with its values."""
    ids = torch.from_numpy(np.random.default_rng(1).permutation(5_000)).to(torch.int64)
    saved = []
    for worker in range(2):
        table = new_table()
        own = ids[owner_of(ids, 2) == worker]
        rows = table.find_or_insert(own)
        table.columns["v_sum"][rows] = own[:, None].double()
        lines = table.export()["rows"]
        assert torch.equal(lines["keys"], own.sort().values)
        saved.append(lines)
    joined = {name: torch.cat([lines[name] for lines in saved]) for name in saved[0]}
    for worker in range(3):
        mine = owner_of(joined["keys"], 3) == worker
        table = new_table()
        table.load({"rows": {name: values[mine] for name, values in joined.items()}})
        lines = table.export()["rows"]
        assert torch.equal(lines["keys"], ids[owner_of(ids, 3) == worker].sort().values)
        assert torch.equal(lines["v_sum"][:, 0], lines["keys"].double())
        assert torch.equal(lines["v"], normal_rows(lines["keys"], 3, 1, 0.1, torch.float64))


def test_rows_of_another_model_are_refused() -> None:
    lines = new_table(2).export()
    with pytest.raises(UsageError, match="no column v of width 3"):
        new_table(3).load(lines)
    table = new_table(2)
    table.find_or_insert(tensor([1]))
    with pytest.raises(UsageError, match="loaded once"):
        table.load(lines)


def test_gather_returns_initial_values_without_inserting() -> None:
    table = new_table()
    known = table.find_or_insert(tensor([7]))
    table.columns["v"][known] = 5.0
    table.columns["v_sum"][known] = 2.0
    values = table.gather(tensor([8, 7, 8]), ("v", "v_sum"))
    assert len(table) == 1
    assert torch.equal(values["v"][0], normal_rows(tensor([8]), 3, 1, 0.1, torch.float64)[0])
    assert torch.equal(values["v"][0], values["v"][2])
    assert values["v"][1].tolist() == [5.0] * 3
    assert values["v_sum"][:, 0].tolist() == [0.0, 2.0, 0.0]


def test_initial_values_depend_only_on_seed_and_id() -> None:
    ids = torch.arange(1000)
    whole = normal_rows(ids, 5, 3, 0.1, torch.float32)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(normal_rows(ids[order], 5, 3, 0.1, torch.float32), whole[order])
    assert torch.equal(torch.cat([normal_rows(i, 5, 3, 0.1, torch.float32) for i in ids.split(7)]), whole)
    assert not torch.equal(normal_rows(ids, 5, 4, 0.1, torch.float32), whole)


def test_initial_values_are_normal() -> None:
    values = normal_rows(torch.arange(100_000), 3, 0, 1.0, torch.float64)
    assert values.mean(dim=0).abs().max() < 0.02
    assert (values.std(dim=0) - 1).abs().max() < 0.02
    assert torch.corrcoef(values.T).fill_diagonal_(0).abs().max() < 0.02
    assert abs(float((values.abs() > 1.96).double().mean()) - 0.05) < 0.003


@given(INT64)
def test_the_two_mixers_agree(word: int) -> None:
    assert int(mix64(tensor([word]))[0]) == mix64_int(word)


def test_mix64_is_splitmix64() -> None:
    # The first outputs of splitmix64 seeded with 0 are mix64 of multiples of its increment (Vigna's splitmix64.c).
    golden = 0x9E3779B97F4A7C15
    assert [mix64_int(golden * i) % 2**64 for i in (1, 2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_owners_are_balanced_and_feature_ids_differ_by_field() -> None:
    raw = torch.arange(100_000)
    ids = feature_id(3, raw)
    counts = torch.bincount(owner_of(ids, 7), minlength=7)
    assert (counts - 100_000 / 7).abs().max() < 600  # five standard deviations
    assert not set(ids.tolist()) & set(feature_id(4, raw).tolist())
    fields = torch.full_like(raw, 3)
    assert torch.equal(feature_id(fields, raw), ids)
    assert text_key("a") != text_key("b")


def test_row_adagrad_updates_touched_rows_once() -> None:
    table = new_table(2)
    rows = table.find_or_insert(tensor([1, 2, 3]))
    before = table.columns["v"].clone()
    grad = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    RowAdagrad(0.5, 1e-300).update(table, rows[1:2], {"v": grad})
    sums = table.columns["v_sum"][:, 0].tolist()
    assert sums == [0.0, 5.0, 0.0]
    assert torch.equal(table.columns["v"][[0, 2]], before[[0, 2]])
    assert torch.allclose(table.columns["v"][1], before[1] - 0.5 * grad[0] / 5**0.5, rtol=0, atol=1e-15)


@pytest.mark.parametrize("width", [1, 2, 17])
def test_initial_values_have_the_requested_width(width: int) -> None:
    assert normal_rows(tensor([1, 2]), width, 0, 1.0, torch.float32).shape == (2, width)
