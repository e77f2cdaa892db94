"""The recorder sees every collective with the planned size, and a trace survives a killed run."""

from __future__ import annotations

import gc
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from des_ref import bench, train
from des_ref.comm import Comm, open_comm
from des_ref.forked import forking_context
from des_ref.recording.open_op import OpenOp
from des_ref.recording.recorder import Recorder
from dessim.errors import TraceError
from dessim.processes import leave
from dessim.trace.check import check_trace as check
from dessim.trace.io import Trace, load_trace, part_folder, rank_file
from dessim.trace.schema import Collective, Kind, Phase
from dessim.workload import formula
from dessim.workload.model import load_model
from dessim.workload.strategies import plan
from tests.bench.trainers import Run


def traced_arguments(tiny: Path, path: Path, steps: int = 3) -> list[str]:
    return [
        "--data", "synthetic", "--model", str(tiny), "--batch", "64", "--device", "cpu", "--trace", str(path),
        "--trace-warmup", "2", "--trace-steps", str(steps), "--steps", str(2 + 3 * steps),
    ]  # fmt: skip


def check_trace(trace: Trace, tiny: Path, ranks: int, strategy: str, pipeline: bool = True) -> None:
    header, planned = trace.header, plan(strategy, load_model(tiny))
    planned = planned.pipelined() if pipeline else planned
    assert header.world_size == ranks and header.complete and not trace.problems
    assert header.recorded_steps == (5, 6, 7)
    assert [len(header.step_us[kind]) for kind in ("recorded", "plain")] == [3, 3]
    assert min(header.step_us["plain"]) > 0 and header.clock_offset_us[0] == 0.0
    for rank in range(ranks):
        for step in header.recorded_steps:
            ops = trace.step(rank, step)
            assert {op.name for op in ops} == {op.name for op in planned.ops}
            done: dict[int, float] = {}
            for op in ops:
                expected = planned.op(op.name)
                symbols = {**header.symbols, **op.vars}
                assert op.kind is expected.kind and op.collective is expected.collective
                assert op.phase is expected.phase
                if op.kind is Kind.COLLECTIVE:
                    assert op.bytes == expected.bytes(symbols), op
                    assert op.stream == expected.stream
                    assert op.group == ("prefetch" if op.stream == "prefetch" else "world")
                else:
                    assert op.stream == expected.stream
                    assert op.dur_us > 0 and op.mem_bytes > 0
                    assert 0 < op.cpu_us <= op.dur_us
                if op.splits is not None:
                    assert sum(op.splits) == op.bytes and len(op.splits) == ranks
                for dep in op.deps:
                    assert op.start_us >= done[dep] - 1.0  # us
                done[op.id] = op.end_us
            by_name = {op.name: op for op in ops}
            # FLOPs of GEMMs are counted; the plan also has elementwise ones, which are a small part even here.
            counted, formula = by_name["tail_backward"].flops, planned.op("tail_backward").flops
            assert counted and formula
            # shared_grad overlaps the row update, and the dense update waits for both.
            update, w1 = by_name["update_rows"], by_name["shared_grad"]
            assert w1.id not in update.deps and {w1.id, update.id} <= set(by_name["update_dense"].deps)


@pytest.mark.parametrize("pipeline", [True, False])
def test_trace_of_one_rank(pipeline: bool, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.trace"
    assert train.main([*traced_arguments(tiny, path), "--pipeline" if pipeline else "--no-pipeline"]) == 0
    trace = load_trace(path)
    check_trace(trace, tiny, 1, "des_all_reduce", pipeline)
    assert not check(trace, formula.evaluate)


@pytest.mark.slow
def test_trace_of_two_ranks(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    said = tmp_path / "said"
    run = Run(2, [*traced_arguments(tiny, path), "--strategy", "des_reduce_scatter"], said)
    assert run.wait(240) == [0, 0], said.read_text()[-3000:]
    trace = load_trace(path)
    check_trace(trace, tiny, 2, "des_reduce_scatter")
    # Each rank receives what the other one sends to it.
    assert not check(trace, formula.evaluate)
    # The ids sent in a step are those of the next one.
    ids = [next(op for op in trace.step(rank, 5) if op.name == "ids") for rank in range(2)]
    lookups = [next(op for op in trace.step(rank, 6) if op.name == "lookup") for rank in range(2)]
    for rank in range(2):
        arrived = sum(op.splits[rank] for op in ids if op.splits is not None)
        assert arrived == round(lookups[rank].vars["m"] * 64 / 2) * 12


@pytest.mark.slow
def test_a_killed_run_leaves_only_a_partial_folder(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.trace"
    arguments = [*traced_arguments(tiny, path, steps=50), "--steps", "20000", "--epochs", "1000"]
    run = Run(1, arguments, tmp_path / "said")
    file = part_folder(path) / rank_file(0)
    try:
        deadline = time.monotonic() + 60
        while not (file.is_file() and file.stat().st_size > 2000):
            assert not run.has_ended and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        run.kill([0])
        run.wait(60)
    assert not path.exists() and part_folder(path).is_dir()
    with pytest.raises(TraceError, match="a run that did not finish has left"):
        load_trace(path)
    # Whole steps written before the kill can be loaded.
    rest = load_trace(part_folder(path))
    assert rest.problems and rest.header.recorded_steps


def _train_ddp(comm: Comm) -> dict[str, Any]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1))
    model = torch.nn.parallel.DistributedDataParallel(net, bucket_cap_mb=0.03)
    recorder = Recorder(comm)
    seen = []
    for step in range(2):
        with recorder.step(step):
            with recorder.segment("forward", Phase.FORWARD):
                loss = model(torch.ones(8, 64)).sum()
            with recorder.segment("backward", Phase.BACKWARD):
                loss.backward()
            with recorder.segment("update", Phase.OPTIMIZER):
                for p in net.parameters():
                    p.data -= 0.01 * p.grad
        seen.append([op.to_json() for op in recorder.take()])
    return {"size": sum(p.numel() * p.element_size() for p in net.parameters()), "steps": seen}


def _ddp_rank(rank: int, rendezvous: Path, answer: Path) -> None:
    torch.set_num_threads(1)
    with open_comm("cpu", (rendezvous, rank, 2)) as comm:
        # In a separate function: a DDP model that outlives its process group aborts the process (torch 2.13).
        seen = _train_ddp(comm)
        if rank == 0:
            answer.write_text(json.dumps(seen))
    leave(0)


@pytest.mark.slow
def test_collectives_of_ddps_reducer_are_seen(tmp_path: Path) -> None:
    context = forking_context()
    answer = tmp_path / "answer.json"
    ranks = [context.Process(target=_ddp_rank, args=(rank, tmp_path / "rendezvous", answer)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    seen = json.loads(answer.read_text())
    for ops in seen["steps"]:
        # DDP also broadcasts its new bucket sizes once, at the start of the second step.
        gradients = [op for op in ops if op.get("collective") == Collective.ALL_REDUCE]
        assert gradients and all(op["name"].startswith("ddp_all_reduce_") for op in gradients)
        assert len({op["name"] for op in ops}) == len(ops)
        assert sum(op["bytes"] for op in gradients) == seen["size"]
        update = next(op for op in ops if op["name"] == "update")
        assert {op["id"] for op in gradients} <= set(update["deps"])
        # The launch cuts backward in two; the second half overlaps the collective and does not depend on it.
        parts = [op for op in ops if op["name"].startswith("backward")]
        assert len(parts) == len(gradients) + 1
        assert all(g["id"] not in part.get("deps", []) for g in gradients for part in parts)
        assert sum(op.get("flops", 0) for op in parts) > 0


@pytest.mark.parametrize("costs", [True, False])
def test_collectives_are_seen_with_and_without_costs_of_compute(costs: bool) -> None:
    def open_ops() -> int:
        return sum(type(found) is OpenOp for found in gc.get_objects())

    before = open_ops()
    with open_comm("cpu") as comm:
        recorder, ones = Recorder(comm), torch.ones(4, 4)
        with recorder.step(costs=costs), recorder.segment("work", Phase.FORWARD):
            torch.distributed.all_reduce(ones @ ones)  # not through comm.py
        work, collective, rest = recorder.take()
        assert open_ops() == before, "what has been taken keeps no group alive"
    assert (collective.collective, collective.bytes) == (Collective.ALL_REDUCE, 64)
    assert (work.flops > 0, work.mem_bytes > 0) == (costs, costs) and rest.name == "work.2"


def test_bench_writes_the_file_that_calibration_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    assert bench.main(["--sizes", "1KiB,10 B", "--iterations", "2", "--device", "cpu", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert (result["schema_version"], result["world_size"], result["backend"]) == (1, 1, "gloo")
    assert [(r["op"], r["bytes"]) for r in result["results"][:2]] == [("all_reduce", 1024), ("all_reduce", 12)]
    assert len(result["results"]) == 8 and all(r["seconds"] > 0 and r["iterations"] == 2 for r in result["results"])
    assert "busbw" in capsys.readouterr().out
