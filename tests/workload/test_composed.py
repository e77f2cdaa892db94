"""Composed plans: one group is the strategy alone, and groups have the sizes of their tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dessim.cluster import load_cluster
from dessim.commands.support.step import step_of
from dessim.errors import UsageError
from dessim.sim.engine import simulate
from dessim.workload.codecs import parse_codecs
from dessim.workload.coded_plan import coded
from dessim.workload.composed import GROUPED, TablePlan, can_split_columns, compose
from dessim.workload.memory import memory_of
from dessim.workload.model import Model, load_model, parse_model
from dessim.workload.owners import owners_of, sizes_of
from dessim.workload.plan import Plan
from dessim.workload.scale import Job
from dessim.workload.strategies import plan as plan_of


def model_of(widths: tuple[int | None, ...] = (None,) * 5, operators: tuple[str, ...] = ("fm",)) -> Model:
    rows, ids = (90_000, 40, 700, 3_000_000, 12), (3, 1, 2, 9, 1)
    tables: list[dict[str, Any]] = [
        {"rows": r, "ids": i, **({"width": w} if w else {})} for r, i, w in zip(rows, ids, widths, strict=True)
    ]
    raw = {
        "schema_version": 2,
        "name": "tables",
        "input": {"batch_per_worker": 256},
        "tables": tables,
        "embedding": {"width": 16},
        "operators": [*({"kind": kind} for kind in operators), {"kind": "mlp", "widths": [32]}],
    }
    return parse_model(raw, "tables.toml")


def all_by(strategy: str, model: Model, n: int) -> list[TablePlan]:
    """Every table by one strategy; table f on worker f mod n."""
    if strategy != "table_wise":
        return [TablePlan(strategy)] * model.input.fields
    return [TablePlan(strategy, (f % n,), (width,)) for f, width in enumerate(model.widths)]


def described(plan: Plan, model: Model, n: int) -> tuple[list[tuple[str, ...]], list[float], float, float]:
    """Names with dependencies, sizes of collectives on each worker's owner, memory, and simulated seconds."""
    job, cluster = Job.of_model(model), load_cluster("one-switch_16")
    symbols = plan.symbols(job.symbols(n))
    owners = owners_of(plan, model, symbols)
    sizes = [size for op in plan.collectives for size in sizes_of(op, symbols, owners)]
    workload, _ = step_of(job, cluster, plan, symbols, owners)
    names = [tuple(name.partition(".")[0] for name in (op.name, *op.deps)) for op in plan.ops]
    return names, sizes, memory_of(plan, symbols, owners).total, simulate(cluster, workload).end


@pytest.mark.parametrize("strategy", GROUPED)
@pytest.mark.parametrize(
    ("model", "n"),
    [(model_of(), 4), (model_of(operators=("lr",), widths=(8, 16, 4, 8, 32)), 4), (load_model("deepfm"), 8)],
    ids=["equal", "widths", "deepfm"],
)
def test_one_group_is_the_strategy_alone(strategy: str, model: Model, n: int) -> None:
    alone = described(plan_of(strategy, model).pipelined(), model, n)
    grouped = described(compose(model, all_by(strategy, model, n)).pipelined(), model, n)
    assert grouped[0] == alone[0]
    for found, expected in zip(grouped[1:], alone[1:], strict=True):
        assert found == pytest.approx(expected, rel=1e-12)


MIXED = (
    TablePlan("row_wise"),
    TablePlan("data_parallel"),
    TablePlan("table_wise", (2,), (16,)),
    TablePlan("row_all_to_all"),
    TablePlan("data_parallel"),
)


def test_a_group_has_the_sizes_of_its_tables() -> None:
    model, n, per_worker = model_of(), 4, 256
    plan = compose(model, MIXED)
    symbols = plan.symbols(model.symbols(n))
    bag = 4 * (16 + 1)  # bytes: fm's bags carry one float more than the vector
    assert plan.op("pooled.table_wise").bytes(symbols) == per_worker * bag
    assert plan.op("pooled.row_wise").bytes(symbols) == n * per_worker * bag
    assert plan.op("ids.table_wise").bytes(symbols) == per_worker * 2 * 8
    law = model.law.tables()[3][0]
    rows = law.unique(per_worker * 9.0)
    assert plan.op("rows.row_all_to_all").bytes(symbols) == round(rows * 16 * 4)
    dense = plan_of("table_wise", model)
    assert plan.op("dense_grad").bytes(symbols) == dense.op("dense_grad").bytes(dense.symbols(model.symbols(n)))


def test_the_named_owner_has_all_of_its_table() -> None:
    model, n = model_of(), 4
    plan = compose(model, MIXED)
    symbols = plan.symbols(model.symbols(n))
    owners = owners_of(plan, model, symbols)
    assert sorted(rank for owner in owners for rank in owner.ranks) == list(range(n))
    owned = {rank: owner.scale["V_table_wise"] for owner in owners for rank in owner.ranks}
    assert owned == {0: 0.0, 1: 0.0, 2: float(n), 3: 0.0}
    for name in ("m_row_wise", "u_row_all_to_all"):
        assert np.mean([owner.scale[name] for owner in owners for _ in owner.ranks]) == pytest.approx(1)


def test_the_dense_part_waits_for_all_groups_and_starts_their_backward() -> None:
    plan = compose(model_of(), MIXED)
    assert set(plan.op("dense_forward").deps) == {
        "pooled.table_wise",
        "pooled.row_wise",
        "pool.row_all_to_all",
        "pool.data_parallel",
    }
    order = [op.name for op in plan.ops if op.stream == "compute"]
    # Owners pool while requested rows travel.
    assert order.index("lookup.row_all_to_all") < order.index("pool.row_all_to_all")
    assert order.index("pool.table_wise") < order.index("pool.row_all_to_all")
    assert plan.op("update_dense").deps[-1] == "dense_grad" and len(plan.op("update_dense").deps) == 5


def test_halves_of_a_table_send_its_vectors_once_and_its_ids_twice() -> None:
    model = model_of(operators=())
    assert can_split_columns(model) and not can_split_columns(model_of())
    whole = [TablePlan("table_wise", (0,), (16,))] * 5
    halves = [TablePlan("table_wise", (0, 1), (8, 8))] * 5
    sizes = []
    for tables in (whole, halves):
        plan = compose(model, tables)
        symbols = plan.symbols(model.symbols(4))
        sizes.append({name: plan.op(f"{name}.table_wise").bytes(symbols) for name in ("ids", "pooled", "pooled_grad")})
    assert sizes[1]["ids"] == 2 * sizes[0]["ids"]
    assert [sizes[1][name] for name in ("pooled", "pooled_grad")] == [
        sizes[0][name] for name in ("pooled", "pooled_grad")
    ]


def test_codecs_encode_the_messages_of_groups() -> None:
    model, n = model_of(operators=()), 4
    plan = compose(model, MIXED)
    encoded = coded(plan, model, parse_codecs("bf16"))
    symbols = plan.symbols(model.symbols(n))
    for name in ("pooled.table_wise", "pooled_grad.row_wise", "rows.row_all_to_all", "dense_grad"):
        assert encoded.op(f"{name}_encode").part_of == name
        assert encoded.op(name).bytes(symbols) == pytest.approx(plan.op(name).bytes(symbols) / 2, rel=1e-3)


def test_a_strategy_that_cannot_train_the_model_is_refused() -> None:
    model = load_model("fvae")
    with pytest.raises(UsageError, match="use a des_"):
        compose(model, [TablePlan("row_wise")] * model.input.fields)
