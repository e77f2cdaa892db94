"""Replicas of the tables: bytes by hand, what each worker owns and holds, and a step's groups of messages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dessim.cluster import load_cluster
from dessim.commands.support.guard import least_step
from dessim.commands.support.step import step_of
from dessim.errors import UsageError
from dessim.sim.engine import simulate
from dessim.workload.codecs import parse_codecs
from dessim.workload.coded_plan import coded
from dessim.workload.composed import TablePlan, compose
from dessim.workload.memory import memory_of
from dessim.workload.owners import by_rank, owners_of, sizes_of
from dessim.workload.plan_file import JobPlan, read_plan, write_plan
from dessim.workload.scale import Job
from tests.workload.test_composed import model_of

N, R, SAMPLES = 8, 2, 256
L = N // R
BAG, ROW_BYTES = 4 * (16 + 1), 4 * 16
"""Bytes of a pooled vector and of a row: fm's bags carry one float more than the vector."""
ROW, FETCH, COPY = TablePlan("row_wise"), TablePlan("row_all_to_all"), TablePlan("data_parallel")
TABLES = (TablePlan("table_wise", (3,), (16,)), ROW, TablePlan("table_wise", (0,), (16,)), FETCH, COPY)


def sizes(replicas: int, workers: int) -> dict[str, list[float]]:
    """S of each collective on each GPU."""
    model = model_of()
    plan = compose(model, TABLES, replicas)
    symbols = plan.symbols(model.symbols(workers))
    owners = owners_of(plan, model, symbols)
    return {op.name: by_rank(owners, sizes_of(op, symbols, owners)).tolist() for op in plan.collectives}


def test_a_block_sends_what_its_workers_alone_would_send() -> None:
    both, alone = sizes(R, N), sizes(1, L)
    of_blocks = {name: size for name, size in both.items() if not name.startswith("replica_")}
    of_all = {"dense_grad", "row_counts.data_parallel", "row_ids.data_parallel", "row_grads.data_parallel"}
    assert set(of_blocks) == set(alone)
    for name in set(alone) - of_all:
        assert of_blocks[name] == pytest.approx(alone[name] * R), name
    for name in of_all - {"dense_grad"}:
        assert of_blocks[name] == pytest.approx([size * R for size in alone[name]] * R), name


def test_the_bytes_between_replicas_by_hand() -> None:
    """Each of R owners receives the rows that all of them touched, with their ids."""
    found, model = sizes(R, N), model_of()
    tables = model.law.tables()
    for table, (rank, name) in {0: (3, "table_wise"), 2: (0, "table_wise")}.items():
        law, share, _ = tables[table]
        distinct = law.unique(SAMPLES * L * model.input.ids_per_sample * share)
        for block in range(R):
            assert found[f"replica_ids.{name}"][rank + block * L] == pytest.approx(R * distinct * 8)
            assert found[f"replica_grads.{name}"][rank + block * L] == pytest.approx(R * distinct * ROW_BYTES)
    assert found["replica_counts.row_wise"] == [R * 8] * N
    law, share, _ = tables[1]
    distinct = law.unique(SAMPLES * L * model.input.ids_per_sample * share)
    assert np.sum(found["replica_ids.row_wise"]) == pytest.approx(R * R * distinct * 8)


def test_a_worker_holds_what_a_block_needs() -> None:
    """R times the rows of a plan without replicas."""
    model = model_of()
    memory = []
    for replicas in (1, R):
        plan = compose(model, [ROW] * 5, replicas)
        symbols = plan.symbols(model.symbols(N))
        memory.append(memory_of(plan, symbols).rows)
    assert memory[1] == pytest.approx(R * memory[0])


def test_blocks_and_workers_between_them_exchange_at_the_same_time() -> None:
    model, cluster = model_of(), load_cluster("one-switch_16")
    plan = compose(model, TABLES, R)
    job = Job.of_model(model)
    symbols = plan.symbols(job.symbols(N))
    owners = owners_of(plan, model, symbols)
    workload, _ = step_of(job, cluster, plan, symbols, owners)
    groups = {name: list(ranks) for name, ranks in workload.groups.items()}
    assert groups["server 0"] == [0, 1, 2, 3] and groups["server 4"] == [4, 5, 6, 7]
    assert groups["between 1"] == [1, 5] and len(groups) == 1 + R + L
    end = simulate(cluster, workload).end
    least_step(job, cluster, plan, symbols, owners).require(end, "a step")


def test_a_file_has_the_ranks_of_a_block(tmp_path: Path) -> None:
    model, cluster, path = model_of(), load_cluster("one-switch_16"), tmp_path / "job.plan.toml"
    write_plan(path, JobPlan(N, N * SAMPLES, TABLES, replicas=R), model, cluster)
    assert read_plan(path, model, cluster) == JobPlan(N, N * SAMPLES, TABLES, replicas=R)
    (plan,) = read_plan(path, model, cluster).composed(model)
    assert plan.strategy == "2 table_wise, 1 row_wise, 1 row_all_to_all, 1 data_parallel, 2 replicas"


def test_messages_within_replicas_are_sent_as_they_are() -> None:
    plan = compose(model_of(), TABLES, R)
    with pytest.raises(UsageError, match="gradients of dense weights only"):
        coded(plan, model_of(), parse_codecs("gradients=bf16"))
    assert "dense_grad_encode" in [op.name for op in coded(plan, model_of(), parse_codecs("dense=bf16")).ops]
