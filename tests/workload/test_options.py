"""Options of strategies: how they are written, and the expected values of their symbols against drawn ids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dessim.errors import UsageError
from dessim.trace.schema import Collective, Kind, Phase
from dessim.workload.formula import number
from dessim.workload.ids import ZipfLaw, expected_unique, largest_share
from dessim.workload.model import load_model
from dessim.workload.options import Expected, Options
from dessim.workload.plan import PlannedOp, Traffic, collective
from dessim.workload.strategies import STRATEGIES, parse_strategy, plan
from dessim.workload.symbols import l, s, u

MANY = [
    "row_all_to_all+hot_rows=5000",
    "row_all_to_all+look_ahead",
    "ps_sync+hot_rows=5000+look_ahead",
    "row_all_gather+cache_rows=200000",
    "row_all_to_all+hot_rows=5000+shampoo",
    "des_reduce_scatter+shampoo",
]

OPTIONED = [name for name, spec in STRATEGIES.items() if spec.options]


def options_of(strategy: str) -> st.SearchStrategy[Options]:
    numbers = st.integers(0, 10**6)
    each = {"hot_rows": numbers, "cache_rows": numbers, "look_ahead": st.booleans(), "shampoo": st.booleans()}
    return st.builds(Options, **{name: each[name] for name in STRATEGIES[strategy].options})


@given(st.sampled_from(OPTIONED).flatmap(lambda s: st.tuples(st.just(s), options_of(s))))
def test_written_options_read_back_equal(case: tuple[str, Options]) -> None:
    assert parse_strategy(case[0] + str(case[1])) == case
    assert bool(case[1]) == bool(str(case[1]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ps_sync+hot=3", "ps_sync has no option 'hot'; it has hot_rows, look_ahead"),
        ("mesh+hot_rows=3", "mesh has no option 'hot_rows'; it has shampoo"),
        ("ps_async+hot_rows=3", "ps_async has no option 'hot_rows'; those that have any are des_all_reduce, des_red"),
        ("des_all_reduce+shampoo=1", "shampoo takes no value"),
        ("ps_sync+hot_rows", "write a number of rows above 0, such as hot_rows=10000"),
        ("ps_sync+hot_rows=0", "a number of rows above 0"),
        ("ps_sync+hot_rows=1e4", "a number of rows above 0"),
        ("ps_sync+hot_rows=²", "a number of rows above 0"),
        ("ps_sync+look_ahead=yes", "look_ahead takes no value"),
        ("ps_sync+look_ahead+look_ahead", "look_ahead is given twice"),
        ("nothing+hot_rows=3", "nothing has no option"),
    ],
)
def test_a_mistake_in_an_option_is_explained(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("+", r"\+")):
        plan(text, load_model("fm"))


@pytest.mark.parametrize("strategy", MANY)
def test_plans_with_options_evaluate_and_copy_only_on_the_copy_stream(strategy: str) -> None:
    model = load_model("deepfm")
    found = plan(strategy, model)
    values = found.symbols(model.symbols(16))
    assert found.strategy == strategy and found.is_pipelined is False and found.pipelined().is_pipelined
    assert found.options and found.options == parse_strategy(strategy)[1]
    for op in found.ops:
        for size in (op.size, op.flops, op.mem, op.keeps, op.table_rows, op.local_share):
            assert size.evaluate(values) >= 0, (op.name, size)
        assert (op.kind is Kind.COPY) == (op.stream == "copy")
    assert found.sent_bytes(found.symbols(model.symbols(1))) == 0


def test_hot_rows_replace_requests() -> None:
    model, n, hot = load_model("fm"), 8, 1000
    plain, with_hot = plan("row_all_to_all", model), plan(f"row_all_to_all+hot_rows={hot}", model)
    v = with_hot.symbols(model.symbols(n))
    f, row = 7 / 8, v["W"] * v["s"]
    asked = 2 * v["x"] * row + v["x"] * v["k"]
    sent = f * (asked + 2 * ((v["U"] - v["X"]) * row + hot))
    assert sum(with_hot.sent_bytes(v, t) for t in (Traffic.IDS, Traffic.SPARSE)) == pytest.approx(sent, rel=1e-12)
    # Every worker needs the hottest rows. Their ids are saved, at the cost of a byte each that says they occur.
    few = plan("row_all_to_all+hot_rows=5", model)
    saved = plain.sent_bytes(v) - few.sent_bytes(few.symbols(model.symbols(n)))
    assert saved == pytest.approx(f * 5 * (v["k"] - 2), rel=1e-3)


def test_shampoo_gathers_a_direction_for_each_replicated_weight() -> None:
    model = load_model("deepfm")
    for name in ("des_all_reduce", "row_all_to_all"):
        plain, second = plan(name, model), plan(f"{name}+shampoo", model)
        v = second.symbols(model.symbols(8))
        weights = v["P"] + v["H1"] * v["F"] * v["D"]
        assert second.sent_bytes(v) - plain.sent_bytes(v) == pytest.approx(7 / 8 * weights * v["s"])
        assert [op.name for op in second.ops[-3:]] == ["precondition", "directions", "update_dense"]
    with pytest.raises(UsageError, match="live with their fields"):
        plan("des_all_reduce+shampoo", load_model("deepfm_fields"))
    assert plan("table_wise+shampoo", load_model("deepfm_fields")).op("directions")


def test_the_local_share_of_an_all_to_all_is_not_sent() -> None:
    op = collective("x", Phase.FORWARD, Collective.ALL_TO_ALL, Traffic.SPARSE, u * s, local_share=l)
    values = {"N": 4.0, "u": 100.0, "s": 4.0, "l": 0.4}
    assert op.sent_bytes(values) == pytest.approx(400 * 0.6)
    assert op.even_size(values) * 3 / 4 == pytest.approx(400 * 0.6)  # as an even AllToAll of that size sends
    assert PlannedOp("x", Phase.FORWARD, Kind.COLLECTIVE, (), "comm", size=number(8)).even_size(values) == 8


# -- expected values of symbols ----------------------------------------------------------------------------------


def test_a_law_of_several_fields_sums_that_of_each() -> None:
    law = ZipfLaw(6000, 1.1, 6)
    assert law.unique(900, 60) == pytest.approx(6 * expected_unique(150, 1000, 1.1, 10))
    assert law.unique(law.draws_of(700)) == pytest.approx(700, rel=1e-5) and law.draws_of(6000) == float("inf")


def test_an_offset_moves_the_law_by_half_a_rank() -> None:
    """Ranks drawn by inverting the integral of x**-skew, as synthetic data are."""
    rng, skew, ids = np.random.default_rng(4), 1.3, 400
    power = 1 - skew
    x = (1 + rng.random((40, 500)) * ((ids + 1) ** power - 1)) ** (1 / power)
    counted = np.mean([len(np.unique(drawn)) for drawn in np.minimum(x.astype(int), ids)])
    assert ZipfLaw(ids, skew, offset=0.5).unique(500) == pytest.approx(counted, rel=0.01)
    assert ZipfLaw(ids, skew).unique(500) < 0.95 * counted


@pytest.mark.parametrize(("balls", "cells"), [(1, 4), (2, 8), (5, 4), (39, 4), (39, 16), (300, 8)])
def test_the_fullest_cell_agrees_with_thrown_balls(balls: int, cells: int) -> None:
    thrown = np.random.default_rng(1).multinomial(balls, [1 / cells] * cells, size=20_000).max(axis=1)
    assert largest_share(balls, cells) == pytest.approx(thrown.mean() / balls, rel=0.01)
    assert largest_share(balls, 1) == 1 and largest_share(0.3, cells) == 1


def draws(rng: np.random.Generator, law: ZipfLaw, shape: tuple[int, ...]) -> np.ndarray:
    """Ids by the law, of one field; 0 is the most frequent."""
    p = np.arange(1.0, law.vocabulary + 1) ** -law.skew
    return rng.choice(len(p), size=shape, p=p / p.sum())


@pytest.mark.parametrize("skew", [0.8, 1.05, 1.3])
def test_expected_symbols_agree_with_counts(skew: float) -> None:
    rng, law, n, batch, hot, cache = np.random.default_rng(2), ZipfLaw(5000, skew), 4, 2000, 50, 300
    job = {"N": float(n), "B": batch / 2, "m": 2.0, "u": law.unique(batch / n), "U": law.unique(batch)}
    counted: dict[str, list[float]] = {"x": [], "X": [], "M": []}
    kept = np.empty(0, dtype=int)  # ids in all caches, most recently used last
    for step in range(60):
        ids = draws(rng, law, (n, batch // n))
        counted["x"] += [len(np.unique(own[own >= hot])) for own in ids]
        counted["X"].append(len(np.unique(ids[ids >= hot])))
        now = np.unique(ids)
        if step >= 20:
            counted["M"].append(len(np.setdiff1d(now, kept)) / n)
        kept = np.concatenate([kept[~np.isin(kept, now)], now])[-max(n * cache, len(now)) :]
    found = Expected(Options(hot_rows=hot), law)(job) | Expected(Options(cache_rows=cache), law)(job)
    assert found["H"] == hot and found["l"] == pytest.approx(1 / n)
    for name, values in counted.items():
        assert found[name] == pytest.approx(float(np.mean(values)), rel=0.05), name


def test_look_ahead_keeps_less_local_on_more_workers() -> None:
    model = load_model("deepfm")
    found = plan("row_all_to_all+look_ahead", model)
    shares = [found.symbols(model.symbols(n))["l"] * n for n in (2, 8, 64)]
    assert shares == sorted(shares) and shares[0] > 1.1  # times as much as by chance
    locals_ = [found.symbols(model.symbols(n))["l"] for n in (2, 8, 64)]
    assert locals_ == sorted(locals_, reverse=True)
    assert found.symbols(model.symbols(1))["l"] == 1


def test_measured_counts_take_precedence() -> None:
    """If u was measured, x is the share of it that the law calls cold."""
    model = load_model("deepfm")
    job = model.symbols(8)
    found = plan("row_all_to_all+hot_rows=5000", model)
    half = found.symbols(job | {"u": job["u"] / 2, "U": job["U"] / 2})
    whole = found.symbols(job)
    assert half["x"] == pytest.approx(whole["x"] / 2) and half["X"] == pytest.approx(whole["X"] / 2)
