"""The cost of a call and of its work, fitted to captures of two sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dessim.cluster import load_cluster
from dessim.commands.support.captured import Capture, Captured
from dessim.sim.core.device import roofline
from dessim.trace.io import Trace
from dessim.trace.schema import Header, Kind, Op, Phase
from dessim.workload.model import load_model
from dessim.workload.strategies import plan as plan_of
from tests.trace.build import header, step_ops

GPU = replace(load_cluster("lab/switch_4").gpu, launch_overhead=0.0)
MODEL = load_model("deepfm")
PLAN = plan_of("des_all_reduce", MODEL)
COMPUTE = [op for op in PLAN.ops if op.kind is Kind.COMPUTE]
CALL = 1e-3  # seconds per call
RATE = 3.0  # time of the work over the device's roofline


def law(op, symbols) -> float:
    return CALL + RATE * roofline(GPU, op.flops.evaluate(symbols), op.mem.evaluate(symbols), 0.0)


def capture(ranks: int, batch: int) -> Capture:
    """A run on `ranks` ranks; each op takes the time of the law."""
    symbols = {"m": 39.0, "u": 1000.0 * ranks**0.1, "U": 1000.0 * ranks**0.8, **MODEL.symbols(ranks, batch * ranks)}
    made = header(
        world_size=ranks,
        model=MODEL.model_dump(mode="json"),
        symbols=symbols,
        groups={},
        clock_offset_us=(0.0,) * ranks,
    )
    return Capture(made, {op.name: law(op, symbols) for op in COMPUTE})


def test_two_sizes_give_calls_and_work() -> None:
    captured = Captured.of([capture(2, 64), capture(4, 64)], GPU)
    symbols = captured.job.symbols(8, 64)
    found = captured.durations(PLAN, symbols)
    assert list(found) == [op.name for op in COMPUTE]
    # The fit recovers the law of ops whose work grows with the number of ranks; the time of the others is constant.
    grows = {"tail_forward", "tail_backward", "local_partials", "local_backward"}
    for op in COMPUTE:
        if op.name in grows:
            assert found[op.name] == pytest.approx(law(op, symbols), rel=1e-6), op.name
    assert found["split_ids"] == pytest.approx(captured.runs[0][1]["split_ids"], rel=1e-8)  # 9 digits


def test_a_single_capture_keeps_its_times() -> None:
    captured = Captured.of([capture(4, 64)], GPU)
    assert captured.durations(PLAN, captured.runs[0][0]) == pytest.approx(captured.runs[0][1])


def test_an_op_that_no_rank_ran_takes_no_time() -> None:
    captured = Captured.of([capture(2, 64)], GPU)
    other = plan_of("data_parallel", MODEL)
    assert captured.durations(other, captured.job.symbols(2))["sum_grad"] == 0.0


def test_a_capture_has_medians_and_survives_json(tmp_path) -> None:
    ranks = tuple(tuple(op for step in (2, 3, 4) for op in step_ops(rank, step)) for rank in range(2))
    found = Capture.of_trace(Trace(tmp_path, header(model={}), ranks, ()))
    names = {op.name for op in ranks[0] if op.kind is Kind.COMPUTE}
    assert set(found.seconds) == names
    for name in names:
        each = sorted(op.cpu_us or op.dur_us for ops in ranks for op in ops if op.name == name)
        assert found.seconds[name] == pytest.approx(1e-6 * (each[2] + each[3]) / 2)
    again = Capture.from_json(found.to_json())
    assert again.seconds == found.seconds and isinstance(again.header, Header) and again.header == found.header


def test_the_spread_of_ops_is_kept_and_combined_by_the_median(tmp_path) -> None:
    times = {0: (100.0, 100.0, 100.0), 1: (80.0, 100.0, 120.0)}
    ranks = tuple(
        tuple(
            replace(op, dur_us=times[rank][step], cpu_us=times[rank][step]) if op.kind is Kind.COMPUTE else op
            for step in range(3)
            for op in step_ops(rank, step)
        )
        for rank in range(2)
    )
    found = Capture.of_trace(Trace(tmp_path, header(model={}), ranks, ()))
    assert found.spread == pytest.approx(np.std([100] * 4 + [80, 120]) / 100)
    assert Capture.from_json(found.to_json()).spread == found.spread
    three = [replace(capture(n, 64), spread=spread) for n, spread in ((2, 0.1), (4, 0.5), (8, 0.2))]
    assert Captured.of(three, GPU).spread == 0.2


def test_ops_of_unequal_owners_have_means_over_ranks(tmp_path) -> None:
    """Ranks that own different shares take different times, and formulas state the mean of those."""
    work = {0: (4e3, 5e3, 6e3), 1: (1e3, 1e3, 1e3), 2: (0.0, 0.0, 0.0)}  # us by rank and step
    ranks = tuple(
        tuple(
            Op(2 * step + which, step, Phase.FORWARD, Kind.COMPUTE, name, "compute", 1e4 * step, dur, cpu_us=dur)
            for step, dur in enumerate(durs)
            for which, name in enumerate(("lookup", "dense_forward"))
        )
        for durs in work.values()
    )
    made = header(world_size=3, strategy="table_wise", model=MODEL.model_dump(mode="json"))
    found = Capture.of_trace(Trace(tmp_path, made, ranks, ()))
    assert found.seconds["lookup"] == pytest.approx(2e-3)  # of an owner: (5 + 1 + 0) / 3
    assert found.seconds["dense_forward"] == pytest.approx(1e-3)  # of a worker: the median
