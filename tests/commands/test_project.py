"""Projection and memory: a job that does not fit becomes a row with the reason; spilled rows cost host bandwidth."""

from __future__ import annotations

import csv
import dataclasses
import io

import pytest

from dessim.cluster import Cluster, load_cluster
from dessim.commands.support.projection import Misfit, Projection
from dessim.errors import CapacityError, UsageError
from dessim.results import tables
from dessim.results.show import print_projection
from dessim.workload.memory import memory_of
from dessim.workload.model import Model, load_model
from dessim.workload.owners import owners_of
from dessim.workload.scale import Job
from dessim.workload.strategies import plan
from tests.projecting import project

CLUSTER = load_cluster("one-switch_16")  # one H100 per host, no software overhead
FM = load_model("fm")


def job(vocabulary: float, skew: float = 0.0, batch: int = 4096) -> Job:
    changed = FM.input.model_copy(update={"vocabulary": vocabulary, "skew": skew, "batch_per_worker": batch})
    return Job.of_model(FM.model_copy(update={"input": changed}))


def with_host(rate: float) -> Cluster:
    return dataclasses.replace(CLUSTER, gpu=dataclasses.replace(CLUSTER.gpu, host_bandwidth=rate))


def needed(model: Model, n: int, strategy: str = "table_wise") -> float:
    planned, symbols = plan(strategy, model).pipelined(), model.symbols(n)
    return memory_of(planned, symbols, owners_of(planned, model, symbols)).total


def test_rows_that_do_not_fit_are_reported_and_the_others_priced() -> None:
    big = job(vocabulary=4e9)  # 4e9 rows of 19 floats and 24 bytes: 400 GB
    rows = project(big, CLUSTER, ["table_wise"], [4, 8])
    assert isinstance(rows[0], Misfit) and isinstance(rows[1], Projection)
    assert [row.memory.total for row in rows] == [needed(big.model, n) for n in (4, 8)]
    assert "table_wise of fm on 4 GPUs does not fit: a GPU needs 95.6" in rows[0].reason
    assert "use about 6 GPUs or more" in rows[0].reason


def test_owners_of_whole_tables_fold_to_the_same_step() -> None:
    """26 owners send to 96 GPUs, half of the last leaf: 2,470 messages in a few hundred colours at most."""
    cluster, kaggle = load_cluster("bench/two_level_1024_4to1"), Job.of_model(load_model("criteo_kaggle"))
    folded, whole = (
        project(kaggle, cluster, ["table_wise"], [96], 512, folding=folding)[0] for folding in (True, False)
    )
    assert isinstance(folded, Projection) and isinstance(whole, Projection)
    assert folded.breakdown.step_time_s == pytest.approx(whole.breakdown.step_time_s, rel=1e-9)
    assert folded.breakdown.exposed_comm_s == pytest.approx(whole.breakdown.exposed_comm_s, rel=1e-9)
    assert folded.record.flow_colours < 400 < 2470 <= whole.record.flow_colours


def test_a_job_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(CapacityError, match="on 1 GPU does not fit"):
        project(job(vocabulary=4e9), CLUSTER, ["table_wise", "ps_sync"], [1, 2], servers=None)


def test_tables_and_files_carry_the_rows_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row.to_json() for row in project(job(vocabulary=4e9), CLUSTER, ["table_wise"], [4, 8])]
    print_projection(rows)
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["4", "table-wise", "does", "not", "fit", "95.6", "GiB"] in lines
    assert ["8", "table-wise", "*"] in [line[:3] for line in lines]
    assert "table_wise of fm on 4 GPUs does not fit" in out and "memory: formula: " in out
    first, second = csv.DictReader(io.StringIO(tables.projection_csv(rows)))
    assert first["step_time_s"] == first["compute_s"] == first["bytes_ids"] == ""
    assert float(first["memory_bytes"]) == rows[0]["memory_bytes"] and "does not fit" in first["does_not_fit"]
    assert float(second["step_time_s"]) > 0 and second["does_not_fit"] == ""


def test_activations_of_the_global_batch_may_not_fit() -> None:
    # The activations of a rank of des_all_reduce grow with the global batch, so more GPUs do not help.
    job = Job.of_model(load_model("deepfm"))
    with pytest.raises(CapacityError, match=r"use fewer samples a GPU \(--batch-per-worker\)$"):
        project(job, load_cluster("h100-8x_rail_128"), ["des_all_reduce"], [1024], batch_per_worker=16384)


def test_spilled_rows_take_the_time_of_the_link_to_the_host() -> None:
    # Ids are uniform, so the share of reads from the host is the share of rows there.
    big = job(vocabulary=4e9)
    rate = 10e9
    n = 4
    (row,) = project(big, with_host(rate), ["table_wise"], [n], spill=True)
    assert isinstance(row, Projection) and row.spill is not None
    capacity = CLUSTER.gpu.memory
    memory = row.memory
    spilled_share = (memory.total - capacity) / (memory.rows + memory.row_state)
    assert row.spill.host_bytes == pytest.approx(memory.total - capacity)
    assert (row.spill.rows_share, row.spill.reads_share) == pytest.approx((spilled_share, spilled_share), rel=1e-6)
    symbols = big.symbols(n)
    rows = symbols["U"] / n
    spans = {s.name: s.end - s.start for s in row.record.spans}
    kernels = CLUSTER.gpu.kernels
    assert kernels is not None
    assert spans["lookup"] == pytest.approx(24 * kernels.floor + spilled_share * rows * 17 * 4 / rate, rel=1e-6)
    assert spans["update_rows"] == pytest.approx(24 * kernels.floor + spilled_share * rows * 19 * 4 / rate, rel=1e-6)
    assert row.provenance["spill"].startswith("assumed: ") and "10 GB/s" in row.provenance["spill"]


def test_a_fast_link_to_the_host_is_hidden_behind_the_gpus_own_memory() -> None:
    big = job(vocabulary=4e9)
    (spilled,) = project(big, with_host(1e15), ["table_wise"], [4], spill=True)
    roomy = dataclasses.replace(CLUSTER, gpu=dataclasses.replace(CLUSTER.gpu, memory=1e12))
    (whole,) = project(big, roomy, ["table_wise"], [4])
    assert isinstance(spilled, Projection) and isinstance(whole, Projection)
    assert spilled.breakdown.step_time_s == pytest.approx(whole.breakdown.step_time_s, rel=1e-12)


def test_hot_rows_on_the_gpu_make_spilling_cheap() -> None:
    rows = [project(job(4e9, skew), with_host(10e9), ["table_wise"], [4], spill=True)[0] for skew in (0.0, 1.05, 1.4)]
    shares = [row.spill.reads_share for row in rows if isinstance(row, Projection) and row.spill is not None]
    assert len(shares) == 3 and shares == sorted(shares, reverse=True)
    assert shares[2] < 0.1 * shares[0]


def test_pcie_is_the_link_to_the_host_unless_the_gpu_states_another() -> None:
    rail = load_cluster("h100-8x_rail_128")
    (row,) = project(job(vocabulary=1e10), rail, ["table_wise"], [8], spill=True)
    assert isinstance(row, Projection) and rail.node.pcie is not None
    assert f"{rail.node.pcie.capacity / 1e9:.4g} GB/s in each direction" in row.provenance["spill"]
    with pytest.raises(UsageError, match=r"one-switch_16.toml has no node.pcie"):
        project(job(vocabulary=4e9), CLUSTER, ["table_wise"], [4], spill=True)


def test_the_spill_columns_are_printed_only_where_rows_spill(capsys: pytest.CaptureFixture[str]) -> None:
    for vocabulary, spills in ((4e9, True), (1e6, False)):
        rows = [r.to_json() for r in project(job(vocabulary), with_host(1e10), ["table_wise"], [4, 8], spill=True)]
        print_projection(rows)
        out = capsys.readouterr().out
        assert ("host reads" in out) is ("spill: assumed: " in out) is spills
