"""Tables on servers: bytes by hand, what each worker owns, groups of messages, and plan files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dessim.cluster import load_cluster
from dessim.commands.support.guard import least_step, worker_bytes
from dessim.commands.support.step import step_of
from dessim.errors import FileError
from dessim.sim.engine import simulate
from dessim.workload.composed import TablePlan, compose
from dessim.workload.owners import by_rank, owners_of, sizes_of
from dessim.workload.plan_file import JobPlan, read_plan, write_plan
from dessim.workload.scale import Job
from tests.workload.test_composed import all_by, model_of

N, SAMPLES, BAG = 4, 256, 4 * (16 + 1)
"""GPUs, samples of each, and bytes of a pooled vector: fm's bags carry one float more than the vector."""
ROW = TablePlan("row_wise")


def server(first: int, workers: int = 2) -> TablePlan:
    return TablePlan("table_row_wise", tuple(range(first, first + workers)))


TABLES = [server(0), server(2), server(2), ROW, server(2)]
"""One table on the first server and three on the second."""


def sizes(tables: list[TablePlan]) -> dict[str, list[float]]:
    """S of each collective of the group on each GPU."""
    model = model_of()
    plan = compose(model, tables)
    symbols = plan.symbols(model.symbols(N))
    owners = owners_of(plan, model, symbols)
    of_group = [op for op in plan.collectives if op.name.endswith(".table_row_wise") or op.name.endswith(".table_wise")]
    return {op.name.partition(".")[0]: by_rank(owners, sizes_of(op, symbols, owners)).tolist() for op in of_group}


def test_the_bytes_of_each_message_by_hand() -> None:
    found = sizes(TABLES)
    batch = N * SAMPLES
    in_server = [batch * tables * BAG for tables in (1, 1, 3, 3)]  # each pools its server's tables for all samples
    assert found["pooled_server"] == pytest.approx(in_server)
    assert found["pooled_grad_server"] == pytest.approx(in_server)
    assert found["pooled"] == found["pooled_grad"] == pytest.approx([size / 2 for size in in_server])


def test_with_one_gpu_a_server_vectors_travel_as_those_of_whole_tables() -> None:
    alone = sizes([server(f % N, 1) for f in range(5)])
    whole = sizes(all_by("table_wise", model_of(), N))
    assert alone["pooled"] == pytest.approx(whole["pooled"]) and alone["pooled_grad"] == pytest.approx(
        whole["pooled_grad"]
    )


def test_rows_are_on_the_gpus_of_their_server_alone() -> None:
    model = model_of(widths=(8, 16, 4, 8, 32), operators=("lr",))
    plan = compose(model, TABLES)
    symbols = plan.symbols(model.symbols(N))
    owners = owners_of(plan, model, symbols)
    scale = {name: by_rank(owners, [owner.scale[name] for owner in owners]) for name in owners[0].scale}
    rows = np.array([90_000, 90_000, 752, 752]) / 2  # 40, 700 and 12 rows on the second server
    assert scale["V_table_row_wise"] == pytest.approx(rows / rows.mean())
    assert scale["F_table_row_wise"] == pytest.approx([0.5, 0.5, 1.5, 1.5])
    ids = scale["m_table_row_wise"]
    assert ids[:2].sum() == pytest.approx(4 * 3 / 7) and ids[0] != ids[1]  # 3 of 7 ids, spread by hash


def test_messages_run_in_servers_and_between_them() -> None:
    model, cluster = model_of(), load_cluster("h100-8x_rail_128")
    job, n = Job.of_model(model), 32
    plan = compose(model, [server(0, 8), server(8, 8), server(24, 8), ROW, server(24, 8)]).pipelined()
    symbols = plan.symbols(job.symbols(n))
    owners = owners_of(plan, model, symbols)
    workload, _ = step_of(job, cluster, plan, symbols, owners)
    assert len(workload.groups) == 1 + 4 + 8
    assert list(workload.groups["server 8"]) == list(range(8, 16))
    assert list(workload.groups["between 3"]) == [3, 11, 19, 27]
    step = simulate(cluster, workload).end
    least_step(job, cluster, plan, symbols, owners).require(step, "a step")
    sent, received = worker_bytes(plan, symbols, owners)
    assert sent.sum() == pytest.approx(received.sum()) == pytest.approx(n * plan.sent_bytes(symbols))


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ([server(1)] * 5, "needs ranks, all GPUs of one server"),
        ([TablePlan("table_row_wise")] * 5, "needs ranks, all GPUs of one server"),
        ([server(0, 3)] * 5, "4 GPUs are no servers of 3"),
        ([server(4)] * 5, "4 GPUs are no servers of 2 with the ranks 4 to 5"),
        ([server(0), server(0, 4), ROW, ROW, ROW], "has 4 ranks, table 0 has 2"),
        ([TablePlan("table_row_wise", (0, 1), (16,))] * 5, "leave out columns"),
        ([server(0)] * 5, "not all GPUs of one server of h100-8x_rail_128"),
    ],
)
def test_a_plan_that_names_no_server_is_refused(tables: list[TablePlan], problem: str, tmp_path: Path) -> None:
    model, cluster, path = model_of(), load_cluster("h100-8x_rail_128"), tmp_path / "job.plan.toml"
    write_plan(path, JobPlan(N, N * SAMPLES, tuple(tables)), model, cluster)
    with pytest.raises(FileError, match=problem):
        read_plan(path, model, cluster if cluster.name in problem else None)


def test_a_plan_file_names_the_gpus_of_a_server(tmp_path: Path) -> None:
    model, cluster, path = model_of(), load_cluster("h100-8x_rail_128"), tmp_path / "job.plan.toml"
    job = JobPlan(16, 16 * SAMPLES, (server(8, 8), *[ROW] * 4))
    write_plan(path, job, model, cluster)
    assert "ranks = [8, 9, 10, 11, 12, 13, 14, 15]" in path.read_text() and "columns" not in path.read_text()
    assert read_plan(path, model, cluster).tables == job.tables
