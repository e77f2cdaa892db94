"""The description of a trace: steps, shares of time, and bytes and time per op."""

from __future__ import annotations

from pathlib import Path

import pytest

from dessim.trace.describe import describe_trace, union
from dessim.trace.io import Trace
from tests.trace.build import all_ops, header


def test_a_trace_is_described():
    description = describe_trace(Trace(Path("run.trace"), header(), tuple(tuple(ops) for ops in all_ops())))
    assert (description["ranks"], description["steps"], description["ops"]) == (2, 3, 24)
    assert description["step_time_s"]["median"] == pytest.approx(102.5e-6)  # 90 us, and clocks 12.5 us apart
    assert description["measured_s"]["plain"]["median"] == pytest.approx(100.75e-6)
    # compute 20 + 30 of 90 us; the collectives' 55 us overlap the backward for 15.
    assert description["compute_share"] == pytest.approx(50 / 90)
    assert description["exposed_comm_share"] == pytest.approx(40 / 90)
    assert description["idle_share"] == pytest.approx(0)
    ids = sum(8 * (30 + r + s) + 16 for r in (0, 1) for s in (2, 3, 4)) / 6
    assert description["bytes_sent_per_rank_per_step"] == pytest.approx(ids / 2 + 4608)
    by_name = {op["name"]: op for op in description["by_op"]}
    assert by_name["ids"]["bytes_mean"] == pytest.approx(ids)
    assert by_name["partials"]["time_s"]["max"] == pytest.approx(40e-6)
    assert by_name["partials"]["calls"] == 6


def test_overlapping_intervals_count_once():
    assert union([]) == 0
    assert union([(0, 2), (1, 3), (5, 6), (5.2, 5.4)]) == 4
