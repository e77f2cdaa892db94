"""HiGHS's bound is below every plan's estimate, and the placement is near the best of all."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.plan.choose import allowed, choose
from dessim.plan.loads import STAGES, Choice, Loads
from dessim.plan.place import estimate, place
from dessim.workload.plan_file import TABLE_STRATEGIES
from tests.plan.small import loads, model_of

ONE_NODE = np.zeros(64, dtype=np.int64)
SIZES = st.tuples(st.sampled_from([12, 900, 60_000, 4_000_000]), st.integers(1, 30))


def best_of_all(of: Loads, n: int) -> float:
    """The least estimate of every choice and every owner of every table, without columns split."""
    best = np.inf
    for choices in product(*allowed(of, TABLE_STRATEGIES, {})):
        if any(choice.parts > 1 for choice in choices):
            continue
        whole = [t for t, choice in enumerate(choices) if choice.is_placed]
        for owners in product(range(n), repeat=len(whole)):
            placed = np.zeros((n, len(STAGES)))
            for table, owner in zip(whole, owners, strict=True):
                load = of.by_choice[choices[table]][table]
                assert load is not None
                placed[owner] += load.owned
            best = min(best, estimate(of, choices, placed))
    return float(best)


@settings(max_examples=12, deadline=None)
@given(st.lists(SIZES, min_size=3, max_size=3), st.sampled_from([2, 3]))
def test_the_bound_is_below_every_plan_and_the_plan_near_the_best(sizes: list[tuple[int, int]], n: int) -> None:
    model = model_of(tuple(sizes), width=16)  # too narrow to split
    of = loads(model, n, batch=6 * 4096)
    chosen = choose(of, TABLE_STRATEGIES)
    assert chosen is not None
    found = place(of, chosen.choices, model.widths, ONE_NODE[:n])
    assert found is not None
    least = best_of_all(of, n)
    assert chosen.bound <= least * (1 + 1e-6)
    assert least * (1 - 1e-9) <= found.seconds <= 1.05 * least


def test_shards_of_a_table_have_different_owners_and_fit() -> None:
    model = model_of()
    of = loads(model, 8)
    choices = [Choice("table_wise", 4), Choice("table_wise", 2), *[Choice("table_wise")] * 3]
    found = place(of, choices, model.widths, ONE_NODE[:8])
    assert found is not None
    for table, choice in zip(found.tables, choices, strict=True):
        assert len(set(table.ranks)) == choice.parts and sum(table.columns) == 64
    assert found.loads[:, STAGES.index("memory")].max() <= of.room
    again = place(of, choices, model.widths, ONE_NODE[:8])
    assert again is not None and again.tables == found.tables


def test_a_table_that_is_too_large_for_a_gpu_is_not_placed_whole() -> None:
    model = model_of(((400_000_000, 3), (1000, 1)))
    of = loads(model, 8)
    assert all(choice.strategy != "table_wise" or choice.parts > 1 for choice in allowed(of, TABLE_STRATEGIES, {})[0])
    assert choose(of, ("table_wise", "data_parallel")) is None
    chosen = choose(of, TABLE_STRATEGIES)
    assert chosen is not None and chosen.choices[0].family in ("row_wise", "row_all_to_all", "column_wise")


def test_a_pinned_table_keeps_its_strategy() -> None:
    of = loads(model_of(), 8)
    chosen = choose(of, TABLE_STRATEGIES, {4: Choice("row_wise")})
    assert chosen is not None and chosen.choices[4] == Choice("row_wise")


def test_a_load_is_that_of_the_plan() -> None:
    """By hand: the owner of table 3 sends its vectors to all, 64 floats for each of the batch's samples."""
    of = loads(model_of(), 8)
    load = of.by_choice[Choice("table_wise")][3]
    assert load is not None
    vectors = 2 * 65_536 * 64 * 4 * 2e-11  # forward and backward, s
    assert load.owned[STAGES.index("messages")] == pytest.approx(vectors, rel=1e-12)
    ids = (65_536 * 2 * 8 + 65_536 * 4) * 2e-11
    assert load.owned[STAGES.index("input")] == pytest.approx(ids, rel=1e-12)
    rows = 700 * (64 * 4 + 4 + 24)
    assert load.owned[STAGES.index("memory")] > rows
