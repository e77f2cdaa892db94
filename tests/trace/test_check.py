"""The checker finds each kind of damage, and only where there is some."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dessim.trace import check
from dessim.trace.check import check_trace, describe_trace
from dessim.trace.io import Trace
from dessim.trace.schema import Collective
from dessim.workload.formula import evaluate
from tests.trace.build import all_ops, header

LOOKUP, IDS, PARTIALS, BACKWARD = range(4)


def trace(ops=None, **changes):
    return Trace(Path("run.trace"), header(**changes), tuple(tuple(o) for o in (ops or all_ops())))


def damaged(rank, index, **changes):
    ops = all_ops()
    ops[rank][index] = replace(ops[rank][index], **changes)
    return trace(ops)


def without(rank, index):
    ops = all_ops()
    del ops[rank][index]
    return trace(ops)


def test_a_sane_trace_has_no_problems():
    assert check_trace(trace(), evaluate) == []
    assert check_trace(trace()) == []
    assert check_trace(damaged(0, LOOKUP, flops=63, mem_bytes=1), evaluate) == []  # counted, and modelled


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (without(1, PARTIALS), "step 2 op 22 'partials' is not on rank 1 of group 'world'"),
        (
            damaged(1, PARTIALS, collective=Collective.REDUCE_SCATTER),
            "is all_reduce on rank 0 and reduce_scatter on rank 1",
        ),
        (damaged(1, PARTIALS, bytes=4), "moves 4608 bytes on rank 0 and 4 on rank 1"),
        (damaged(1, PARTIALS, bytes=4), "recorded 4 bytes, 'B*K*s' gives 4608"),
        (damaged(1, PARTIALS, dtype="float16"), "has dtype float32 on rank 0 and float16 on rank 1"),
        (damaged(0, IDS, splits=(1, 2)), "has splits of 3 bytes in all, but bytes = 272"),
        (damaged(0, IDS, splits=(272, 0, 0)), "has 3 splits for a group of 2"),
        (damaged(0, IDS, splits=(300, -28)), "has negative splits"),
        (damaged(0, IDS, splits=None), "has splits on rank 1 but none on rank 0"),
        (damaged(0, IDS, vars={"n": 31.0}), "recorded 272 bytes, '8*n + 16' gives 264"),
        (damaged(0, IDS, vars={}), "needs 'n'"),
        (damaged(0, IDS, group="pipeline"), "is in group 'pipeline', which trace.json does not have"),
        (damaged(1, IDS, group="first"), "is in group 'first', of which rank 1 is no member"),
        (damaged(0, LOOKUP, dur_us=25.0), "starts 5.000 us before 'lookup', which it needs, ends"),
        (damaged(0, BACKWARD, start_us=2015.0), "'backward' overlaps 'lookup' on stream 'compute' by 5.000 us"),
        (damaged(0, PARTIALS, deps=(999,)), "depends on id 999, which is not there"),
        (damaged(0, PARTIALS, deps=(22,)), "'partials', which it needs"),
        (damaged(0, LOOKUP, id=21), "id 21 is used twice (lookup and ids)"),
        (damaged(0, BACKWARD, name="lookup"), "step 2 has two ops named 'lookup'"),
        (
            trace(recorded_steps=(2, 3)),
            "rank-00000.jsonl.gz: holds steps [2, 3, 4], trace.json says [2, 3]",
        ),
    ],
)
def test_damage_is_named(broken, says):
    problems = check_trace(broken, evaluate)
    assert any(says in p for p in problems), problems


def test_an_even_all_to_all_needs_equal_bytes():
    ops = all_ops()
    for rank in (0, 1):
        ops[rank][IDS] = replace(ops[rank][IDS], splits=None)
    assert any("even all_to_all, but its bytes differ" in p for p in check_trace(trace(ops), evaluate))


def test_collectives_may_be_under_way_together():
    assert check_trace(damaged(0, PARTIALS, start_us=2022.0, deps=()), evaluate) == []


def test_collectives_in_another_order_are_found():
    ops = all_ops()
    ops[1][IDS], ops[1][PARTIALS] = ops[1][PARTIALS], ops[1][IDS]
    assert any("in other orders" in p for p in check_trace(trace(ops)))


def test_the_same_damage_everywhere_is_summed_up():
    ops = [[replace(o, deps=(999,)) for o in rank] for rank in all_ops()]
    problems = check_trace(trace(ops))
    assert len(problems) == 2 * (check.MOST_OF_A_KIND + 1)
    assert "7 more: unknown dependencies" in problems[check.MOST_OF_A_KIND]


def test_what_reading_reported_comes_first():
    torn = replace(trace(), problems=("rank-00001.jsonl.gz:9: torn last line",))
    assert check_trace(torn) == ["rank-00001.jsonl.gz:9: torn last line"]


def test_description():
    told = describe_trace(trace())
    assert (told["ranks"], told["steps"], told["ops"]) == (2, 3, 24)
    assert told["step_time_s"]["median"] == pytest.approx(102.5e-6)  # 90 us, and clocks 12.5 us apart
    assert told["measured_s"]["plain"]["median"] == pytest.approx(100.75e-6)
    # compute 20 + 30 of 90 us; the collectives' 55 us overlap the backward for 15.
    assert told["compute_share"] == pytest.approx(50 / 90)
    assert told["exposed_comm_share"] == pytest.approx(40 / 90)
    assert told["idle_share"] == pytest.approx(0)
    ids = sum(8 * (30 + r + s) + 16 for r in (0, 1) for s in (2, 3, 4)) / 6
    assert told["bytes_sent_per_rank_per_step"] == pytest.approx(ids / 2 + 4608)
    by_name = {op["name"]: op for op in told["by_op"]}
    assert by_name["ids"]["bytes_mean"] == pytest.approx(ids)
    assert by_name["partials"]["time_s"]["max"] == pytest.approx(40e-6)
    assert by_name["partials"]["calls"] == 6


def test_union_of_intervals():
    assert check.union([]) == 0
    assert check.union([(0, 2), (1, 3), (5, 6), (5.2, 5.4)]) == 4
