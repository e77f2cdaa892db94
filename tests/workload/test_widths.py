"""Tables of different widths: formulas, what the busiest rank sends and holds, and owners."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dessim.workload.from_plan import workload_from_plan
from dessim.workload.hash_placement import frequent_ids_owners
from dessim.workload.memory import memory_of
from dessim.workload.model import Model, parse_model
from dessim.workload.owners import busiest_server, owners_of
from dessim.workload.plan import Plan
from dessim.workload.server_roles import a_message, on_server
from dessim.workload.strategies import STRATEGIES
from dessim.workload.strategies import plan as plan_of
from dessim.workload.strategies.parts import dense_weights
from dessim.workload.symbols import ONE_WIDTH
from tests.workload.test_tables import raw

WIDTHS = (64, 16, 128, 16)
ROWS = (500, 40, 7000, 90)
IDS = (3.0, 1.0, 2.5, 1.0)
MLP = {"kind": "mlp", "widths": [16]}
LR = {"kind": "lr"}


def model_of(*operators: dict[str, Any], widths: tuple[int, ...] = WIDTHS, **changes: Any) -> Model:
    tables = [{"rows": r, "ids": m, "width": w} for r, m, w in zip(ROWS, IDS, widths, strict=True)]
    return parse_model(raw(*tables, operators=list(operators or (LR, MLP)), **changes), "widths.toml")


def sizes(plan: Plan, symbols: dict[str, float]) -> dict[str, float]:
    return {op.name: op.size.evaluate(symbols) for op in plan.collectives}


def test_the_symbols_are_means_over_what_they_are_named_after() -> None:
    model = model_of(embedding={"width": 8, "optimizer": "adagrad"})
    symbols = model.symbols(4, 512)
    floats = [width + 1 for width in WIDTHS]  # of a row: the embedding and the linear weight
    assert symbols["F"] * symbols["DF"] == sum(WIDTHS) and symbols["F"] * symbols["WF"] == sum(floats)
    assert symbols["m"] * symbols["Wm"] == pytest.approx(sum(m * w for m, w in zip(IDS, floats, strict=True)))
    assert symbols["V"] * symbols["WV"] == pytest.approx(sum(v * w for v, w in zip(ROWS, floats, strict=True)))
    assert symbols["OV"] == symbols["WV"]  # adagrad keeps one float for each
    unique = [table.law.unique(512 * table.ids) for table in model.tables]
    assert symbols["U"] * symbols["WU"] == pytest.approx(sum(u * w for u, w in zip(unique, floats, strict=True)))


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_bytes_are_those_of_each_table_with_its_own_width(strategy: str) -> None:
    """Bytes are linear in the floats of rows: with half of the columns everywhere, half of the row bytes."""
    operators = (MLP, {"kind": "cross", "layers": 2})
    model, halved = model_of(*operators), model_of(*operators, widths=tuple(w // 2 for w in WIDTHS))
    plan = plan_of(strategy, model)
    whole, half = (sizes(plan, plan.symbols(m.symbols(4, 512))) for m in (model, halved))
    of_rows = {"pooled", "pooled_grad", "rows", "rows_grad", "row_grads", "pull_rows", "push_rows"} & whole.keys()
    assert of_rows or strategy.startswith("des_")
    for name in of_rows:
        assert half[name] == pytest.approx(whole[name] / 2, rel=1e-12)
    # A model of one width has the formulas of before, without means.
    one = plan_of(strategy, model_of(*operators, widths=(16,) * 4))
    names = {name for op in one.ops for part in (op.size, op.flops, op.mem, op.keeps) for name in part.symbols}
    assert names.isdisjoint(ONE_WIDTH)


def test_first_layers_read_the_sum_of_the_widths() -> None:
    model = model_of(MLP)
    total = sum(WIDTHS)
    assert dense_weights(model).evaluate(model.symbols(2)) == total * 16 + 16 + 16 + 1 + 1
    des = plan_of("des_all_reduce", model)
    assert des.op("shared_grad").size.evaluate(model.symbols(2)) == total * 16 * 4
    above = model_of({**MLP, "strategy": "mesh"}, dense={"features": 3, "widths": [10]})
    assert dense_weights(above).evaluate(above.symbols(2)) == 3 * 10 + 10 + (total + 10) * 16 + 16 + 16 + 1 + 1
    assert plan_of("des_all_reduce", above).op("partials").size.evaluate(above.symbols(2, 100)) == 100 * total * 4


@pytest.mark.parametrize("n", [2, 4, 8])
def test_the_busiest_owner_of_whole_tables_in_closed_form(n: int) -> None:
    model = model_of()
    plan = plan_of("table_wise", model)
    symbols = plan.symbols(model.symbols(n))
    owners = owners_of(plan, model, symbols)
    tables = [[f for f in range(4) if f % n == rank] for rank in range(n)]
    idle = [dict.fromkeys((op.name for op in plan.ops), 0.0)] * len(owners)
    workload = workload_from_plan(plan, symbols, idle, owners=owners)
    pooled = next(task for task in workload.classes[0].tasks if task.name == "pooled")
    assert pooled.loads is not None
    # Each rank sends the pooled vectors of its tables and their linear weights, for every sample.
    sent = [symbols["B"] * sum(WIDTHS[f] + 1 for f in own) * 4 for own in tables]
    assert max(pooled.loads.totals) == pytest.approx(max(sent), rel=1e-9)
    assert sum(pooled.loads.totals) == pytest.approx(sum(sent), rel=1e-9)
    held = memory_of(plan, symbols, owners)
    assert held.rows == pytest.approx(max(sum(ROWS[f] * (WIDTHS[f] + 1) for f in own) for own in tables) * 4, rel=1e-9)
    assert held.row_state == pytest.approx(max(2 * sum(ROWS[f] for f in own) for own in tables) * 4, rel=1e-9)
    work = {
        rank: owner.symbols(symbols)["m"] * owner.symbols(symbols)["Wm"] / n for owner in owners for rank in owner.ranks
    }
    expected = [sum(IDS[f] * (WIDTHS[f] + 1) for f in own) for own in tables]
    assert [work[rank] for rank in range(n)] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [2, 8])
def test_owners_by_hash_share_the_floats_of_all_rows(n: int) -> None:
    model = model_of()
    for strategy in ("row_all_to_all", "row_wise", "row_all_gather"):
        plan = plan_of(strategy, model)
        symbols = plan.symbols(model.symbols(n, 512))
        owners = owners_of(plan, model, symbols)
        for count, mean in (("u", "Wu"), ("U", "WU"), ("m", "Wm")):
            each = [(len(o.ranks), o.symbols(symbols)[count], o.symbols(symbols)[mean]) for o in owners]
            floats = sum(ranks * count * mean for ranks, count, mean in each)
            assert floats == pytest.approx(n * symbols[count] * symbols[mean], rel=1e-9)
        assert owners[0].scale.keys() >= {"u", "Wu", "WU"}


def test_a_server_is_asked_for_rows_of_its_own_widths() -> None:
    model = model_of()
    symbols = plan_of("ps_sync", model).symbols(model.symbols(4, 512))
    busiest, others = busiest_server(plan_of("ps_sync", model), model, symbols, 2)
    floats = [on_server(symbols, owner) for owner in (busiest, others)]
    assert sum(s["u"] * s["Wu"] for s in floats) == pytest.approx(2 * symbols["u"] * symbols["Wu"], rel=1e-9)
    assert floats[0]["u"] * floats[0]["Wu"] > floats[1]["u"] * floats[1]["Wu"]
    message = a_message(symbols, 2)
    assert message["U"] * message["WU"] == pytest.approx(symbols["u"] * symbols["Wu"])


def test_the_owner_of_an_id_is_the_trainer_s() -> None:
    hashing = pytest.importorskip("des_ref.hashing")
    torch = pytest.importorskip("torch")
    ids = hashing.in_group(hashing.feature_id(2, torch.arange(500)), torch.tensor(3))
    assert np.array_equal(hashing.owner_of(ids, 7).numpy(), frequent_ids_owners(2, 500, 7, 3))
