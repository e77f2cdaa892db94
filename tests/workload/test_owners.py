"""Owners: shares add up, agree with counts over drawn ids, and reach the sizes of every rank."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dessim.trace.schema import Collective
from dessim.workload.from_plan import workload_from_plan
from dessim.workload.hash_placement import frequent_ids_owners
from dessim.workload.memory import memory_of
from dessim.workload.model import Model, load_model, parse_model
from dessim.workload.owners import MEAN, Owner, busiest_server, owners_of
from dessim.workload.plan import OwnerRole, Plan
from dessim.workload.strategies import STRATEGIES
from dessim.workload.strategies import plan as plan_of

DEEPFM = load_model("deepfm")


def model_of(fields: int = 6, skew: float = 1.05, vocabulary: float = 6e5, ids: float = 6.0) -> Model:
    raw = {
        "schema_version": 1,
        "name": "owned",
        "input": {"fields": fields, "ids_per_sample": ids, "vocabulary": vocabulary, "skew": skew},
        "embedding": {"width": 8},
        "operators": [{"kind": "fm"}, {"kind": "mlp", "widths": [16]}],
    }
    return parse_model(raw, "owned.toml")


def owned(strategy: str, model: Model, n: int) -> tuple[Plan, dict[str, float], tuple[Owner, ...]]:
    plan = plan_of(strategy, model)
    symbols = plan.symbols(model.symbols(n))
    return plan, symbols, owners_of(plan, model, symbols)


@given(
    st.sampled_from([*sorted(STRATEGIES), "row_all_to_all+hot_rows=50", "ps_sync+look_ahead"]),
    st.integers(1, 40),
    st.integers(1, 12),
    st.floats(0.0, 1.8),
)
def test_owners_partition_the_workers_and_their_shares_average_to_one(
    strategy: str, n: int, fields: int, skew: float
) -> None:
    _, _, owners = owned(strategy, model_of(fields, skew, ids=2.0 * fields), n)
    assert sorted(rank for owner in owners for rank in owner.ranks) == list(range(n))
    for name in owners[0].scale:
        # A worker has at most one pair of each sample and field, so the share of pairs is cut off.
        mean = sum(len(owner.ranks) * owner.scale[name] for owner in owners) / n
        assert mean == pytest.approx(1.0, abs=1e-9)
        assert min(owner.scale[name] for owner in owners) >= -1e-12


@pytest.mark.parametrize(("fields", "n"), [(3, 8), (39, 1024), (39, 16), (6, 4)])
def test_a_table_that_is_placed_whole_has_one_owner(fields: int, n: int) -> None:
    plan, symbols, owners = owned("table_wise", model_of(fields, ids=float(fields)), n)
    tables = {rank: owner.scale["F"] * fields / n for owner in owners for rank in owner.ranks}
    assert [tables[rank] for rank in range(n)] == pytest.approx(
        [sum(f % n == r for f in range(fields)) for r in range(n)]
    )
    workload = workload_from_plan(
        plan, symbols, [dict.fromkeys((op.name for op in plan.ops), 0.0)] * len(owners), owners=owners
    )
    pooled = next(task for task in workload.classes[0].tasks if task.name == "pooled")
    row_and_bag = symbols["W"] + symbols["E"]
    most = math.ceil(fields / n) * symbols["B"] * row_and_bag * 4
    if pooled.loads is None:
        assert fields % n == 0 and pooled.size == pytest.approx(most, rel=1e-12)
    else:
        assert not pooled.loads.received
        assert max(pooled.loads.totals) == pytest.approx(most, rel=1e-9)
        assert sum(pooled.loads.totals) == pytest.approx(symbols["B"] * fields * row_and_bag * 4, rel=1e-10)


FIELDS, ROWS, SKEW, DRAWS = 39, 100_000, 1.05, 200_000


@pytest.fixture(scope="module")
def drawn() -> list[np.ndarray]:
    """For each field, how often each id was drawn."""
    p = np.arange(1.0, ROWS + 1) ** -SKEW
    rng = np.random.default_rng(7)
    return [np.bincount(rng.choice(ROWS, size=DRAWS, p=p / p.sum()), minlength=ROWS) for _ in range(FIELDS)]


@pytest.mark.parametrize("n", [8, 64, 1024])
def test_the_load_of_hashed_owners_agrees_with_a_count_over_drawn_ids(drawn: list[np.ndarray], n: int) -> None:
    model = model_of(FIELDS, SKEW, float(FIELDS * ROWS), ids=float(FIELDS))
    busiest = max(owned("row_wise", model, n)[2], key=lambda owner: owner.scale.get("m", 1.0))
    counts = np.zeros(n)
    for field, times in enumerate(drawn):
        counts += np.bincount(frequent_ids_owners(field, ROWS, n), times, minlength=n)
    (rank,) = busiest.ranks
    assert counts.argmax() == rank
    assert busiest.scale["m"] == pytest.approx(counts[rank] / counts.mean(), rel=0.03)


@pytest.mark.parametrize("n", [8, 64])
def test_distinct_ids_of_hashed_owners_agree_with_a_count_over_drawn_ids(n: int) -> None:
    fields, rows, batch = 6, 20_000, 512
    model = model_of(fields, 1.2, float(fields * rows))
    plan = plan_of("row_all_to_all", model)
    symbols = plan.symbols(model.symbols(n, batch * n))
    busiest = max(owners_of(plan, model, symbols), key=lambda owner: owner.scale["u"])
    p = np.arange(1.0, rows + 1) ** -1.2
    owner = np.stack([frequent_ids_owners(field, rows, n) for field in range(fields)])
    rng = np.random.default_rng(3)
    requested = np.zeros(n)
    for _ in range(n):  # the requests of each worker
        for field in range(fields):
            distinct = np.unique(rng.choice(rows, size=batch, p=p / p.sum()))
            requested += np.bincount(owner[field, distinct], minlength=n)
    (rank,) = busiest.ranks
    assert busiest.scale["u"] == pytest.approx(requested[rank] / requested.mean(), rel=0.03)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize("n", [4, 16])
def test_totals_of_unequal_ranks_average_to_the_size_of_the_plan(strategy: str, n: int) -> None:
    plan, symbols, owners = owned(strategy, DEEPFM, n)
    idle = [dict.fromkeys((op.name for op in plan.ops), 0.0)] * len(owners)
    tasks = {task.name: task for task in workload_from_plan(plan, symbols, idle, owners=owners).classes[-1].tasks}
    for op in plan.collectives:
        loads = tasks[op.name].loads
        if loads is not None:
            assert op.collective is Collective.ALL_TO_ALL
            assert np.mean(loads.totals) == pytest.approx(op.even_size(symbols), rel=1e-9)
            assert [sum(loads.sent_by(r)) for r in range(n)] == pytest.approx(
                [np.mean(loads.totals)] * n if loads.received else list(loads.totals)
            )
        elif op.role is OwnerRole.PADS:
            assert tasks[op.name].size >= op.even_size(symbols)
        else:
            assert tasks[op.name].size == pytest.approx(op.even_size(symbols), rel=1e-12)


def test_servers_have_the_shares_of_as_many_owners() -> None:
    """The busiest of S servers owns what the busiest of S workers would, and a lone server everything."""
    model = model_of(skew=1.3)
    plan = plan_of("ps_sync", model)
    symbols = plan.symbols(model.symbols(8))
    busiest, others = busiest_server(plan, model, symbols, 8)
    of_workers = {len(owner.ranks): owner for owner in owners_of(plan, model, symbols)}
    assert (busiest.scale, others.scale) == (of_workers[1].scale, of_workers[7].scale)
    assert busiest.scale["u"] > 1.01
    busier, other = busiest_server(plan, model, symbols, 2)
    assert busier.scale["u"] > 1 > other.scale["u"]
    alone, same = busiest_server(plan, model, symbols, 1)
    assert alone == same and alone.symbols(symbols)["u"] == symbols["u"]
    assert busiest_server(plan, model_of(skew=0.0), symbols, 8) == (MEAN, MEAN)


def test_the_fullest_rank_counts() -> None:
    plan, symbols, owners = owned("table_wise", model_of(3, vocabulary=3e8), 8)
    # One of 3 tables of 1e8 rows, where the mean over 8 workers is three eighths of that.
    assert memory_of(plan, symbols, owners).rows == pytest.approx(1e8 * symbols["W"] * 4)
    assert memory_of(plan, symbols).rows == pytest.approx(3e8 / 8 * symbols["W"] * 4)


def test_hot_rows_take_the_load_off_the_busiest_owner() -> None:
    cold = owned("row_all_to_all+hot_rows=100000", DEEPFM, 1024)[2]
    plain = owned("row_all_to_all", DEEPFM, 1024)[2]
    assert max(o.scale["x"] for o in cold) < max(o.scale["u"] for o in plain)
