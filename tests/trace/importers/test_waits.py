"""A pause of a host thread that ends near the end of a gloo collective is a wait for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dessim.cluster import load_cluster
from dessim.commands.replay import replay
from dessim.trace.check import check_trace
from dessim.trace.schema import Kind
from tests.trace.importers.profiles import event, write
from tests.trace.importers.test_kineto import imported

MAIN, WORKER = 7, 9
PAUSE_US = 22960.0
SHORT_OPS = 100  # while the collective runs: more than a replay looks back


def profile(rank: int, late_us: float, pause_us: float = PAUSE_US) -> dict[str, Any]:
    """A step of 10 ms of work, an asynchronous all_reduce, short ops, a pause, and the op that uses the result.

    The all_reduce's span ends `late_us` after the pause (negative: before).
    """
    shapes: dict[str, Any] = {"Input Dims": [[250000]], "Input type": ["float"]}
    begin = 11_000.0
    ops = [
        event("aten::mm", "cpu_op", MAIN, 1_000, 10_000),
        event("c10d::allreduce_", "cpu_op", MAIN, begin, 50, **shapes),
        *(event("aten::add_", "cpu_op", MAIN, begin + 50 + 10 * number, 10) for number in range(SHORT_OPS)),
    ]
    idle = begin + 50 + 10 * SHORT_OPS
    resumes = idle + pause_us
    span = event("gloo:all_reduce", "user_annotation", WORKER, begin + 60, resumes + late_us - begin - 60, **shapes)
    after = [
        event("aten::as_strided", "cpu_op", MAIN, resumes, 40),
        event("aten::mul", "cpu_op", MAIN, resumes + 40, 20_000),
    ]
    step = event("ProfilerStep#1", "user_annotation", MAIN, 1_000, resumes + 21_000)
    info = {"backend": "gloo", "rank": rank, "world_size": 2}
    return {"schemaVersion": 1, "distributedInfo": info, "traceEvents": [step, *ops, span, *after]}


@pytest.mark.parametrize("late_us", [-300.0, 0.0, 10_000.0, 16_000.0])
def test_the_wait_follows_the_collective(tmp_path: Path, late_us: float) -> None:
    write(tmp_path, [profile(rank, late_us) for rank in range(2)])
    trace, _ = imported(tmp_path)
    assert check_trace(trace) == []
    for ops in trace.ranks:
        (reduced,) = (op for op in ops if op.kind is Kind.COLLECTIVE)
        (resumed,) = (op for op in ops if op.name == "aten::as_strided")
        assert resumed.deps == (reduced.id,)
        assert reduced.end_us == pytest.approx(resumed.start_us + min(late_us, 0.0))
    # 1 MB takes microseconds on NVLink, so the recorded wait of 23 ms is gone.
    fast = replay(trace, load_cluster("h100-8x_rail_128"))
    assert fast.predicted[0] == pytest.approx(31.09e-3 + max(-late_us, 0.0) * 1e-6, rel=0.01)


def test_a_pause_during_which_no_collective_ends_is_the_hosts(tmp_path: Path) -> None:
    write(tmp_path, [profile(rank, late_us=2 * PAUSE_US) for rank in range(2)])
    trace, _ = imported(tmp_path)
    assert all(op.deps == () for ops in trace.ranks for op in ops)
    assert replay(trace, load_cluster("h100-8x_rail_128")).predicted[0] > 50e-3


def test_a_short_pause_is_the_hosts(tmp_path: Path) -> None:
    write(tmp_path, [profile(rank, late_us=20.0, pause_us=100.0) for rank in range(2)])
    trace, _ = imported(tmp_path)
    assert all(op.deps == () for ops in trace.ranks for op in ops)
