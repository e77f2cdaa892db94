"""Spilt tables in plans: misses, sizes of copies, memory, the host's capacity, and plan files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dessim.cluster import Cluster, load_cluster
from dessim.commands.project import run_projection
from dessim.commands.support.project_request import ProjectRequest
from dessim.commands.support.projection import Projection
from dessim.errors import CapacityError, FileError, UsageError
from dessim.trace.schema import Kind
from dessim.workload.composed import TablePlan, compose
from dessim.workload.ids import ZipfLaw, misses
from dessim.workload.memory import INDEX, Memory, memory_by_owner
from dessim.workload.model import Model, parse_model
from dessim.workload.owners import by_rank, owners_of
from dessim.workload.plan import Plan
from dessim.workload.plan_file import JobPlan, read_plan, write_plan
from dessim.workload.scale import Job

N, BATCH = 4, 4 * 1024
ROWS, WIDTH = (1_000_000, 300_000, 5_000), 32
CACHED = 50_000
WHOLE, ROW = TablePlan("table_wise", (1,), (WIDTH,)), TablePlan("row_wise")
SPILT = dataclasses.replace(WHOLE, cached_rows=CACHED)


def model_of() -> Model:
    raw: dict[str, Any] = {
        "schema_version": 2,
        "name": "spilt",
        "input": {"batch_per_worker": BATCH // N},
        "tables": [{"name": f"t{n}", "rows": rows, "ids": 3.0} for n, rows in enumerate(ROWS)],
        "embedding": {"width": WIDTH, "optimizer": "rowwise_adagrad"},
        "operators": [{"kind": "mlp", "widths": [8]}],
    }
    return parse_model(raw, "spilt.toml")


MODEL = model_of()
LAWS = st.builds(ZipfLaw, st.floats(10, 1e7), st.floats(0, 1.5))


@settings(max_examples=15)
@given(LAWS, st.floats(1, 1e6), st.floats(0, 1), st.floats(0, 1))
@example(ZipfLaw(1000.0, 1.0), 1e5, 5e-324, 0.5)
def test_a_larger_cache_misses_no_more(law: ZipfLaw, draws: float, one: float, other: float) -> None:
    small, large = (misses(law, draws, share * law.vocabulary) for share in sorted((one, other)))
    assert 0 <= large <= small * (1 + 1e-6) + 1e-6 <= (law.unique(draws) + 1e-6) * (1 + 1e-6)


@given(LAWS, st.floats(1, 1e6))
def test_a_cache_of_no_row_misses_each_distinct_row_and_one_of_all_rows_none(law: ZipfLaw, draws: float) -> None:
    assert misses(law, draws, 0) == law.unique(draws)
    assert misses(law, draws, law.vocabulary) == 0


def planned(*tables: TablePlan) -> tuple[Plan, dict[str, float], list[Memory]]:
    plan = compose(MODEL, tables)
    symbols = plan.symbols(MODEL.symbols(N, BATCH))
    owners = owners_of(plan, MODEL, symbols)
    by_rank = [Memory(0, 0, 0, 0, 0)] * N
    for owner, memory in zip(owners, memory_by_owner(plan, symbols, owners), strict=True):
        for rank in owner.ranks:
            by_rank[rank] = memory
    return plan, symbols, by_rank


def test_a_spilt_table_leaves_its_cache_and_its_index_on_the_gpu() -> None:
    _, symbols, before = planned(WHOLE, ROW, ROW)
    plan, _, after = planned(SPILT, ROW, ROW)
    assert plan.strategy == "1 table_wise, 2 row_wise, 1 spilt"
    assert [memory.host for memory in after] == [0, ROWS[0] * (WIDTH + 1) * 4, 0, 0]
    freed = ROWS[0] - CACHED
    assert before[1].rows - after[1].rows == pytest.approx(freed * WIDTH * 4)
    assert before[1].row_state - after[1].row_state == pytest.approx(freed * 4)
    assert after[1].index - before[1].index == pytest.approx(4 * ROWS[0] + 16 * CACHED)
    assert after[1].index > ROWS[0] * INDEX.evaluate(symbols)
    assert after[0].rows == before[0].rows and after[0].index == before[0].index
    assert "host" not in str(sorted(after[1].to_json()))


@pytest.mark.parametrize("table", [SPILT, dataclasses.replace(ROW, cached_rows=CACHED // N)])
def test_copies_are_the_misses_of_the_tables_own_ids(table: TablePlan) -> None:
    """Row-wise, all owners' caches together hold as many rows as that of one owner, and miss the same."""
    plan, symbols, _ = planned(table, WHOLE if table.strategy == "row_wise" else ROW, ROW)
    group = table.strategy
    names = [op.name for op in plan.ops if op.name.endswith(f".{group}")]
    first = names.index(f"find.{group}")
    assert names[first : first + 5] == [f"{op}.{group}" for op in ("find", "rows_out", "rows_in", "lookup", "pool")]
    law, share, _ = MODEL.law.tables()[0]
    missed = misses(law, BATCH * symbols["m"] * share, CACHED)
    owners = owners_of(plan, MODEL, symbols)
    for copy in plan.copies:
        sizes = by_rank(owners, [copy.size.evaluate(owner.symbols(symbols, copy.role)) for owner in owners])
        assert sizes.sum() == pytest.approx(missed * (WIDTH + 1) * 4)
        shares = [0, 1, 0, 0] if group == "table_wise" else [1 / N] * N
        assert sizes / sizes.sum() == pytest.approx(shares)


def test_a_cache_holds_at_least_the_rows_of_a_step() -> None:
    small = planned(dataclasses.replace(WHOLE, cached_rows=1), ROW, ROW)[1]
    law, share, _ = MODEL.law.tables()[0]
    draws = BATCH * small["m"] * share
    assert small["CV_table_wise"] * N == pytest.approx(law.unique(draws))
    assert small["MV_table_wise"] * N == pytest.approx(law.unique(2 * draws) - law.unique(draws), rel=1e-5)


def projected(cluster: Cluster, *tables: TablePlan) -> Projection:
    plan = compose(MODEL, tables)
    request = ProjectRequest(
        job=Job.of_model(MODEL), cluster=cluster, strategies=[], gpus=[N], batch_per_worker=BATCH // N, composed=[plan]
    )
    (row,) = run_projection(request)
    assert isinstance(row, Projection)
    return row


def with_host(rate: float | None, memory: float | None = None) -> Cluster:
    cluster = load_cluster("h100-8x_rail_128")
    wiring = cluster.wiring.with_nodes(lambda node: dataclasses.replace(node, host_memory=memory))
    return dataclasses.replace(cluster, gpu=dataclasses.replace(cluster.gpu, host_bandwidth=rate), wiring=wiring)


def test_a_lookup_waits_for_copies_at_the_rate_of_the_host() -> None:
    row = projected(with_host(1e9), SPILT, ROW, ROW)
    owner = max(row.record.spans, key=lambda span: span.end - span.start if span.kind is Kind.COPY else 0).rank_class
    spans = {span.name: span for span in row.record.spans if span.rank_class == owner}
    seconds = [span.end - span.start for span in spans.values() if span.kind is Kind.COPY]
    plan = compose(MODEL, (SPILT, ROW, ROW))
    expected = N * plan.op("rows_in.table_wise").size.evaluate(plan.symbols(MODEL.symbols(N, BATCH))) / 1e9
    assert seconds == pytest.approx([expected, expected])
    assert spans["lookup.table_wise"].start >= spans["rows_in.table_wise"].end
    assert row.spill is not None and row.spill.host_bytes == ROWS[0] * (WIDTH + 1) * 4
    assert 0 < row.spill.reads_share < 1 and 0 < row.spill.rows_share < 1
    assert "used last" in row.provenance["spill"] and "1 GB/s" in row.provenance["spill"]
    faster = projected(with_host(1e12), SPILT, ROW, ROW).breakdown.step_time_s
    assert projected(with_host(1e12), WHOLE, ROW, ROW).breakdown.step_time_s < faster < row.breakdown.step_time_s


def test_the_hosts_memory_holds_the_rows_of_all_its_gpus() -> None:
    of_all = sum(ROWS) * (WIDTH + 1) * 4
    tables = [dataclasses.replace(TablePlan("table_wise", (rank,), (WIDTH,)), cached_rows=99) for rank in (0, 1, 3)]
    assert projected(with_host(1e10, of_all * 1.01), *tables).spill is not None
    with pytest.raises(CapacityError, match=r"spilt rows of the GPUs of server 0 need .* spill fewer tables"):
        projected(with_host(1e10, of_all * 0.99), *tables)


def test_a_cluster_must_state_the_rate_to_the_host() -> None:
    with pytest.raises(UsageError, match="needs the bandwidth to the host's memory"):
        projected(load_cluster("one-switch_16"), SPILT, ROW, ROW)


def test_a_plan_file_keeps_caches(tmp_path: Path) -> None:
    path, cluster = tmp_path / "job.plan.toml", load_cluster("one-switch_16")
    job = JobPlan(N, BATCH, (SPILT, dataclasses.replace(ROW, cached_rows=7), ROW))
    write_plan(path, job, MODEL, cluster)
    assert path.read_text().count("cached_rows = ") == 2
    assert read_plan(path, MODEL, cluster).tables == job.tables


@pytest.mark.parametrize(
    ("table", "replicas", "problem"),
    [
        ('strategy = "row_all_to_all"\ncached_rows = 9', 1, "row_all_to_all tables have no cached_rows"),
        ('strategy = "data_parallel"\ncached_rows = 9', 1, "data_parallel tables have no cached_rows"),
        ('strategy = "row_wise"\ncached_rows = 9', 2, "replicas = 2: tables with cached_rows have none"),
        (
            'strategy = "row_wise"\ncached_rows = 0',
            1,
            "tables.0: cached_rows = 0 must be above 0 and below the 250,000",
        ),
        ('strategy = "row_wise"\ncached_rows = 250000', 1, "must be above 0 and below the 250,000 rows of an owner"),
        ('strategy = "row_wise"\ncached_rows = "9"', 1, "tables.0.cached_rows: "),
    ],
)
def test_caches_that_cannot_be_are_refused(table: str, replicas: int, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "job.plan.toml"
    write_plan(path, JobPlan(N, BATCH, (ROW,) * 3, replicas=replicas), MODEL, load_cluster("one-switch_16"))
    path.write_text(path.read_text().replace('strategy = "row_wise"', table, 1))
    with pytest.raises(FileError, match=problem) as found:
        read_plan(path, MODEL)
    assert "\n" not in str(found.value)


def test_draws_of_the_law_agree_with_a_counted_cache() -> None:
    """A stream of one table's ids through a cache that evicts the least recently used."""
    law, rng, draws, cached = ZipfLaw(20_000, 1.0), np.random.default_rng(5), 2_000, 4_000
    p = np.arange(1.0, 20_001) ** -1.0
    kept, counted = np.empty(0, dtype=int), []
    for step in range(60):
        now = np.unique(rng.choice(20_000, draws, p=p / p.sum()))
        if step >= 20:
            counted.append(len(np.setdiff1d(now, kept)))
        kept = np.concatenate([kept[~np.isin(kept, now)], now])[-cached:]
    assert misses(law, draws, cached) == pytest.approx(float(np.mean(counted)), rel=0.03)
