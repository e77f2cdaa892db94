"""Spilling as a choice of the planner: only where memory is short, and the table whose misses cost least."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import pytest

from dessim.cluster import Cluster, load_cluster
from dessim.errors import CapacityError
from dessim.plan.caches import with_caches
from dessim.plan.choose import choose
from dessim.plan.loads import MEMORY, STRATEGIES, Choice
from dessim.plan.search import PlanProblem, RankedPlans, search
from dessim.sim.progress import Progress
from dessim.workload.composed import TablePlan, compose
from dessim.workload.memory import memory_by_owner
from dessim.workload.owners import owners_of
from dessim.workload.scale import Job
from tests.plan.small import BATCH, TABLES, cluster, loads, model_of

COLD_AND_HOT = ((400_000_000, 1), (300_000_000, 20), (50_000, 1))
"""Tables of 95 and 72 GiB, of which the first is read 20 times less; a GPU has 74 GiB."""


def found(tables: tuple[tuple[int, int], ...], gpus: int, on: Cluster | None = None, **asked: object) -> RankedPlans:
    job = Job.of_model(model_of(tables))
    return search(PlanProblem(job, on or cluster(), gpus, BATCH, {}, **asked), Progress())  # type: ignore[arg-type]


@lru_cache
def spilt() -> RankedPlans:
    return found(COLD_AND_HOT, 2)


def test_the_cold_table_is_spilt_first() -> None:
    best = spilt().best
    cached = [table.cached_rows for table in best.tables]
    assert cached[0] > 0 and cached[1:] == [0, 0]
    assert best.row.spill is not None and best.row.memory.total <= cluster().gpu.memory
    assert best.row.strategy.endswith(", 1 spilt") and best.to_json()["tables"][0]["cached_rows"] == cached[0]
    assert 0 <= spilt().gap < 0.05
    both = [c for c in spilt().candidates if c.tables and all(table.cached_rows for table in c.tables[:2])]
    assert all(best.row.breakdown.step_time_s <= c.row.breakdown.step_time_s for c in both)


def test_nothing_is_spilt_where_all_fits() -> None:
    """With two GPUs some choice does not fit, with eight the tables fill little of them."""
    for gpus, tables in ((8, TABLES[:3]), (2, ((300_000_000, 1), (9_000_000, 3)))):
        best = found(tables, gpus, strategies=("table_wise", "row_wise", "spilt")).best
        assert best.row.spill is None and not any(table.cached_rows for table in best.tables)


def test_a_cache_holds_what_the_load_says() -> None:
    """The bytes by which spilling changes a GPU's memory, and the seconds of its copies, are those of the plan."""
    model, rate = model_of(COLD_AND_HOT), 50e9
    symbols = Job.of_model(model).symbols(2, BATCH // 2)
    plain = loads(model, 2)
    with_spilt = with_caches(plain, model, symbols, rate)
    choice = Choice("table_wise")
    before, after = (
        of.by_choice[replaced][0]
        for of, replaced in (
            (plain, choice),
            (with_spilt, dataclasses.replace(choice, cache=8)),
        )
    )
    assert before is not None and after is not None
    whole = TablePlan("table_wise", (0,), (64,))
    held, copied = [], 0.0
    for table in (whole, dataclasses.replace(whole, cached_rows=after.cached_rows)):
        plan = compose(model, [table, TablePlan("table_wise", (1,), (64,)), TablePlan("row_wise")])
        values = plan.symbols(symbols)
        owners = owners_of(plan, model, values)
        held.append(memory_by_owner(plan, values, owners)[0].total)
        copied = sum(op.size.evaluate(owners[0].symbols(values, op.role)) for op in plan.copies)
    assert (after.owned - before.owned)[MEMORY] == pytest.approx(held[1] - held[0], rel=1e-6)
    assert (after.owned - before.owned)[0] == pytest.approx(copied / rate, rel=1e-3)


def test_a_bound_with_spilt_tables_is_no_higher() -> None:
    model = model_of(COLD_AND_HOT)
    plain = loads(model, 4)
    more = with_caches(plain, model, Job.of_model(model).symbols(4, BATCH // 4), 50e9)
    without, with_spilt = choose(plain, STRATEGIES), choose(more, STRATEGIES)
    assert without is not None and with_spilt is not None
    assert with_spilt.bound <= without.bound * (1 + 5e-3)


def test_hosts_hold_what_is_spilt() -> None:
    """The cold table's 97 GB do not fit the host, the hot one's 78 GB do; then neither does."""
    for gigabytes, expected in ((90e9, 1), (60e9, None)):
        wiring = cluster().wiring.with_nodes(lambda node, size=gigabytes: dataclasses.replace(node, host_memory=size))
        on = dataclasses.replace(cluster(), wiring=wiring)
        if expected is None:
            with pytest.raises(CapacityError, match=r"even with rows in the hosts' memory \(55\.88 GiB in all\)"):
                found(COLD_AND_HOT, 2, on)
            continue
        best = found(COLD_AND_HOT, 2, on).best
        assert [number for number, table in enumerate(best.tables) if table.cached_rows] == [expected]
        assert best.row.spill is not None and best.row.spill.host_bytes <= gigabytes


def test_tables_that_fit_by_their_mean_but_on_no_gpus_are_spilt() -> None:
    """Whole tables of 60, 60 and 20 GiB, two GPUs of 74."""
    job = Job.of_model(model_of(((225_000_000, 4), (225_000_000, 4), (75_000_000, 1))))
    whole = dict.fromkeys(range(3), Choice("table_wise"))
    best = search(PlanProblem(job, cluster(), 2, BATCH, whole), Progress()).best
    assert {table.strategy for table in best.tables} == {"table_wise"}
    assert 1 <= sum(table.cached_rows > 0 for table in best.tables) < 3


def test_what_would_help_names_spilling() -> None:
    on_gpus = tuple(name for name in STRATEGIES if name != "spilt")
    with pytest.raises(
        CapacityError, match=r"fp16\); or leave spilt out of --without, so that rows may be in the host"
    ):
        found(COLD_AND_HOT, 1, strategies=on_gpus)
    with pytest.raises(CapacityError, match=r"or state the bandwidth to the host's memory in .*node\.pcie"):
        found(COLD_AND_HOT, 1, load_cluster("one-switch_16"))
    with pytest.raises(CapacityError, match=r"even with rows in the hosts' memory|table t0 fits nowhere") as error:
        found(((40_000_000_000, 3), (1000, 1)), 1)
    assert "--without" not in str(error.value) and "\n" not in str(error.value)
