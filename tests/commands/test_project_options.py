"""Projections of strategies with options: bytes of the plan, and copies at the bandwidth to the host."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dessim.cluster import Cluster, Gpu, load_cluster
from dessim.cluster.kernels import Kernels
from dessim.commands.support.dedicated_servers import parse_servers
from dessim.commands.support.projection import Projection
from dessim.compute import Precision
from dessim.errors import UsageError
from dessim.trace.schema import Kind
from dessim.workload import formula
from dessim.workload.codecs import parse_codecs
from dessim.workload.model import load_model
from dessim.workload.scale import Job
from dessim.workload.strategies import plan
from tests.projecting import project

CACHED = "row_all_gather+cache_rows=200000"


def test_rows_have_the_bytes_of_their_plans_and_copies_take_time() -> None:
    model, cluster = load_model("deepfm"), load_cluster("h100-8x_rail_128")
    names = ["row_all_to_all", "row_all_to_all+look_ahead", "ps_sync+hot_rows=1000", "row_all_gather", CACHED]
    rows = dict(zip(names, project(Job.of_model(model), cluster, names, [16]), strict=True))
    for name, row in rows.items():
        planned = plan(name, model)
        assert row.strategy == name
        assert row.bytes_per_worker == pytest.approx(planned.sent_bytes(planned.symbols(model.symbols(16))))
    look_ahead = rows["row_all_to_all+look_ahead"]
    assert (
        look_ahead.bytes_per_worker < rows["row_all_to_all"].bytes_per_worker and "reads the whole" in look_ahead.caveat
    )
    cached = rows[CACHED]
    values = plan(CACHED, model).symbols(model.symbols(16))
    seconds = formula.evaluate("M*(W+O)*s", values) / cluster.nodes[0].pcie.capacity
    copies = [span for span in cached.record.spans if span.kind is Kind.COPY]
    assert sorted({span.name for span in copies}) == ["rows_in", "rows_out"]
    assert all(span.end - span.start == pytest.approx(seconds) for span in copies)
    assert cached.breakdown.step_time_s > rows["row_all_gather"].breakdown.step_time_s
    assert cached.memory.rows < rows["row_all_gather"].memory.rows
    assert "in each direction" in cached.provenance["compute"]


def test_impossible_combinations_are_refused() -> None:
    job = Job.of_model(load_model("fm"))
    with pytest.raises(UsageError, match=r"row_all_gather\+cache_rows=200000 needs the bandwidth to the host's memory"):
        project(job, load_cluster("one-switch_16"), [CACHED], [4])
    servers = parse_servers("4", "epyc-9654", threads=1, staleness=None, jitter=0.0, seed=0)
    with pytest.raises(UsageError, match=r"--servers and ps_sync\+hot_rows=9: options of strategies are not modelled"):
        project(job, load_cluster("h100-8x_rail_128"), ["ps_sync", "ps_sync+hot_rows=9"], [8], servers=servers)


def kernels_of(cluster: Cluster) -> Gpu:
    """The cluster's GPU with rates of two precisions and properties of kernels."""
    curve = ((64.0, 0.4), (256.0, 0.8))
    kernels = Kernels(100, 128, 2e-6, 5e-7, gather=curve, pool=curve, scatter=curve)
    peaks = ((Precision.FP32, 60e12, 0.7), (Precision.BF16, 900e12, 0.7))
    return replace(cluster.gpu, peaks=peaks, kernels=kernels)


def test_bytes_memory_and_compute_follow_the_precision() -> None:
    cluster, model = load_cluster("h100-8x_rail_128"), load_model("dlrm_dcnv2")
    cluster = cluster.with_gpu(kernels_of(cluster))

    def row(text: str = "", graphs: bool = False, strategy: str = "row_wise") -> Projection:
        at = model.at(model.precision.changed(text)) if text else model
        (found,) = project(Job.of_model(at), cluster, [strategy], [8], graphs=graphs)
        assert isinstance(found, Projection)
        return found

    plain, wire, rows, dense = row(), row("wire=fp16"), row("rows=fp16"), row("dense=bf16")
    sparse = ("sparse", "dense")
    assert [wire.bytes_by_traffic[t] / plain.bytes_by_traffic[t] for t in sparse] == [0.5, 0.5]
    assert wire.bytes_by_traffic["ids"] == plain.bytes_by_traffic["ids"]
    assert rows.memory.rows == plain.memory.rows / 2 and rows.memory.row_state == plain.memory.row_state
    assert rows.bytes_per_worker == dense.bytes_per_worker == plain.bytes_per_worker
    assert dense.memory.activations < plain.memory.activations
    assert dense.breakdown.compute_s < plain.breakdown.compute_s > rows.breakdown.compute_s
    assert "in bf16, eager launches" in dense.provenance["compute"]
    assert "dense bf16, rows fp32, wire fp32" in dense.provenance["sizes"]
    assert row("dense=bf16", graphs=True).provenance["compute"].endswith("CUDA graphs")


def test_wrong_precisions_are_refused_in_one_line() -> None:
    model, cluster = load_model("fm"), load_cluster("h100-8x_rail_128")
    for text, words in (
        ("bf16", "write dense, rows or wire once each"),
        ("dense=bf16,dense=fp16", "write dense, rows or wire once each"),
        ("wire=tf32", "wire=tf32: tf32 is for dense layers alone"),
        ("rows=int4", "rows=int4: Input should be 'fp32'"),
    ):
        with pytest.raises(UsageError, match=f"--precision .*{words}"):
            model.precision.changed(text)
    half = Job.of_model(model.at(model.precision.changed("wire=fp16")))
    with pytest.raises(UsageError, match=r"--codec .* encodes float32, and the model sends fp16"):
        project(half, cluster, ["table_wise"], [8], codecs=parse_codecs("bf16"))
    fp8 = Job.of_model(model.at(model.precision.changed("dense=fp8")))
    with pytest.raises(UsageError, match="states no rate for fp8; choose from fp32, bf16"):
        project(fp8, cluster.with_gpu(kernels_of(cluster)), ["table_wise"], [8])
