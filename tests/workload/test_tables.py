"""Version 2 model files: unequal tables, their laws, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dessim.errors import ModelError
from dessim.workload.ids import TablesLaw, ZipfLaw
from dessim.workload.memory import memory_of
from dessim.workload.model import load_model, parse_model
from dessim.workload.owners import owners_of
from dessim.workload.strategies import STRATEGIES
from dessim.workload.strategies import plan as plan_of
from dessim.workload.strategies.parts import dense_weights


def raw(*tables: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "schema_version": 2,
        "name": "tables",
        "input": {"batch_per_worker": 64},
        "tables": list(tables),
        "embedding": {"width": 8},
        "operators": [{"kind": "fm"}, {"kind": "mlp", "widths": [16]}],
        **changes,
    }


MLP = {"kind": "mlp", "widths": [16]}
UNEQUAL = ({"rows": 50_000, "ids": 3}, {"rows": 40, "ids": 1, "skew": 0.4}, {"rows": 700, "ids": 2.5, "offset": 2.0})


def test_the_input_follows_from_the_tables() -> None:
    model = parse_model(raw(*UNEQUAL), "m.toml")
    assert (model.input.fields, model.input.ids_per_sample, model.input.vocabulary) == (3, 6.5, 50_740)
    assert model.input.batch_per_worker == 64
    assert parse_model(model.model_dump(mode="json"), "trace") == model  # as a trace header holds it


@pytest.mark.parametrize("strategy", [*sorted(STRATEGIES), "row_all_to_all+hot_rows=500"])
def test_equal_tables_are_those_of_a_version_1_file(strategy: str) -> None:
    old = {**raw(), "schema_version": 1, "input": {"fields": 5, "ids_per_sample": 10, "vocabulary": 1e5, "skew": 1.1}}
    del old["tables"]
    one = parse_model(old, "old.toml")
    two = parse_model(raw(*[{"rows": 2e4, "ids": 2, "skew": 1.1}] * 5, input={"batch_per_worker": 4096}), "new.toml")
    plan = plan_of(strategy, one)
    found = []
    for model in (one, two):
        symbols = plan.symbols(model.symbols(8))
        owners = owners_of(plan, model, symbols)
        found.append((symbols, [list(o.ranks) for o in owners], [dict(o.scale) for o in owners]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-9)
    assert found[0][1] == found[1][1]
    for old_scale, new_scale in zip(found[0][2], found[1][2], strict=True):
        assert old_scale == pytest.approx(new_scale, rel=1e-9)


def test_distinct_ids_agree_with_drawn_ones() -> None:
    model = parse_model(raw(*UNEQUAL), "m.toml")
    rng, samples, distinct = np.random.default_rng(1), 4000, 0
    for table in model.tables:
        weights = (np.arange(1.0, table.rows + 1) + table.offset) ** -table.skew
        distinct += len(
            np.unique(rng.choice(int(table.rows), size=round(samples * table.ids), p=weights / weights.sum()))
        )
    assert model.law.unique(samples * 6.5) == pytest.approx(distinct, rel=0.02)
    assert model.symbols(4, samples)["U"] == model.law.unique(samples * 6.5)


def test_the_hottest_rows_are_the_most_frequent_of_all_tables() -> None:
    law = TablesLaw((ZipfLaw(1000, 1.2), ZipfLaw(50, 0.5)), (0.8, 0.2))
    frequencies = [np.arange(1.0, 1001) ** -1.2, np.arange(1.0, 51) ** -0.5]
    p = np.concatenate([share * f / f.sum() for share, f in zip((0.8, 0.2), frequencies, strict=True)])
    table = np.repeat([0, 1], [1000, 50])
    for rows in (1, 10, 60, 500):
        hottest = np.bincount(table[np.argsort(-p, kind="stable")[:rows]], minlength=2)
        assert law.hottest(rows) == pytest.approx(hottest.tolist(), abs=1e-6)
    assert law.unique(1e4, 0) > law.unique(1e4, 10) > law.unique(1e4, 1050) == 0


def test_each_rank_holds_the_tables_that_it_owns() -> None:
    model = parse_model(raw(*UNEQUAL), "m.toml")
    plan = plan_of("table_wise", model)
    symbols = plan.symbols(model.symbols(2))
    owners = {rank: owner for owner in owners_of(plan, model, symbols) for rank in owner.ranks}
    # Rank 0 owns tables 0 and 2, rank 1 owns table 1.
    held = [owners[rank].symbols(symbols)["V"] / 2 for rank in (0, 1)]
    assert held == pytest.approx([50_700, 40])
    ids = [owners[rank].symbols(symbols)["m"] / 2 for rank in (0, 1)]
    assert ids == pytest.approx([5.5, 1.0])
    assert memory_of(plan, symbols, tuple(owners.values())).rows == pytest.approx(50_700 * symbols["W"] * 4)


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (raw(), "schema_version = 2 needs [[tables]]"),
        ({**raw({"rows": 5}), "schema_version": 1}, "[[tables]] needs schema_version = 2"),
        (raw({"ids": 2}), "tables.0.rows: missing"),
        (raw({"rows": 0}), "tables.0.rows: Input should be greater than or equal to 1"),
        (
            raw({"rows": 9}, {"rows": 5, "width": 16}),
            'operator "fm" needs vectors of one width: tables.1.width = 16 and tables.0.width = 8 differ; write equal',
        ),
        (raw({"rows": 9, "width": 0}), "bad.toml: tables.0.width: Input should be greater than 0"),
        (raw({"rows": 9, "width": 65_537}), "tables.0.width: Input should be less than or equal to 65536"),
        (
            raw({"rows": 9}, {"rows": 5, "width": 16}, embedding={"width": 8, "pooling": "max"}, operators=[MLP]),
            'pooling = "max" needs vectors of one width',
        ),
        (raw({"rows": 5, "pooling": "max"}), 'tables.0.pooling = "max"'),
        (raw({"rows": 5}, input={"fields": 2}), "input.fields follows from [[tables]]; remove it"),
        (raw({"rows": 3, "shares": [0.7, 0.3]}), "2 shares for 3 rows; each row needs one"),
        (raw({"rows": 2, "shares": [0.3, 0.7]}), "shares must add up to 1, the largest first"),
        (raw({"rows": 2, "shares": [0.7, 0.2]}), "shares must add up to 1, the largest first"),
        (raw({"rows": 65, "shares": [1 / 65] * 65}), "at most 64 items"),
        (raw({"rows": 5, "rowz": 6}), "tables.0.rowz: unknown key"),
    ],
)
def test_bad_tables_are_refused_in_one_line(file: dict[str, Any], problem: str) -> None:
    with pytest.raises(ModelError) as refused:
        parse_model(file, "bad.toml")
    assert problem in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["criteo_kaggle", "criteo_1tb", "dlrm_dcnv2"])
def test_shipped_tables(name: str) -> None:
    model = load_model(name)
    assert len(model.tables) == 26
    ids = {"criteo_kaggle": 26, "criteo_1tb": 26, "dlrm_dcnv2": 214}
    rows = {"criteo_kaggle": 33_762_577, "criteo_1tb": 204_184_588, "dlrm_dcnv2": 204_184_588}
    assert (model.input.ids_per_sample, model.input.vocabulary) == (ids[name], rows[name])


def with_dense(kind: str = "dot", **operator: Any) -> dict[str, Any]:
    dense = {"features": 13, "widths": [32, 8]}
    return raw(*UNEQUAL, dense=dense, operators=[{"kind": kind, "widths": [16, 4], **operator}])


def test_a_bottom_mlp_adds_its_weights_and_one_vector() -> None:
    model = parse_model(with_dense(), "m.toml")
    bottom = 13 * 32 + 32 + 32 * 8 + 8
    products = 4 * 3 // 2  # of the three tables and the bottom mlp's output
    top = (products + 8) * 16 + 16 + 16 * 4 + 4 + 4 + 1
    assert dense_weights(model).evaluate(model.symbols(2)) == bottom + top + 1
    # Its layers, the joined vectors, their products and the top's inputs, and the top's layers.
    joined = 4 * 8
    assert model.symbols(2)["Z"] == 32 + 8 + joined + 4 * 4 + products + (products + 8) + 16 + 4
    mesh = parse_model(with_dense("mlp", strategy="mesh"), "m.toml")
    assert dense_weights(mesh).evaluate(mesh.symbols(2)) == bottom + 4 * 8 * 16 + 16 + 16 * 4 + 4 + 4 + 1 + 1


def test_dense_inputs_travel_where_the_dense_part_is_replicated() -> None:
    model = parse_model(with_dense(), "m.toml")
    for name, sent in (("des_all_reduce", True), ("mesh", True), ("des_reduce_scatter", False), ("table_wise", False)):
        ops = {op.name: op for op in plan_of(name, model).ops}
        assert ("dense_inputs" in ops) == sent
        if sent:
            # They are float32 whatever the weights are.
            assert ops["dense_inputs"].size.evaluate(model.symbols(2, 100) | {"s": 8.0}) == 100 * 13 * 4


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (with_dense("mlp"), 'operator "mlp" cannot be substituted'),
        ({**with_dense(), "operators": [{"kind": "lr"}]}, "no operator reads the output of the bottom mlp"),
        ({**with_dense(), "dense": {"features": 13, "widths": [32, 16]}}, "dense.widths ends with 16"),
        ({**with_dense(), "dense": {"features": 0, "widths": [8]}}, "dense.features"),
    ],
)
def test_bad_dense_inputs_are_refused(file: dict[str, Any], problem: str) -> None:
    with pytest.raises(ModelError) as refused:
        parse_model(file, "bad.toml")
    assert problem in str(refused.value)
