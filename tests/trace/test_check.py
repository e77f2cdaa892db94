"""The checker finds each kind of error in a trace, and none in a correct one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dessim.trace import check
from dessim.trace.check import check_trace
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


def test_a_correct_trace_has_no_problems():
    assert check_trace(trace(), evaluate) == []
    assert check_trace(trace()) == []
    # Formulas for FLOPs and memory are models, with which the counts need not agree.
    assert check_trace(damaged(0, LOOKUP, flops=63, mem_bytes=1), evaluate) == []


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (without(1, PARTIALS), "step 2 op 22 'partials' is missing on rank 1 of group 'world'"),
        (
            damaged(1, PARTIALS, collective=Collective.REDUCE_SCATTER),
            "is all_reduce on rank 0 and reduce_scatter on rank 1",
        ),
        (damaged(1, PARTIALS, bytes=4), "moves 4608 bytes on rank 0 and 4 on rank 1"),
        (damaged(1, PARTIALS, bytes=4), "recorded 4 bytes, but 'B*K*s' gives 4608"),
        (damaged(1, PARTIALS, dtype="float16"), "has dtype float32 on rank 0 and float16 on rank 1"),
        (damaged(0, IDS, splits=(1, 2)), "has splits of 3 bytes in total, but bytes = 272"),
        (damaged(0, IDS, splits=(272, 0, 0)), "has 3 splits for a group of 2"),
        (damaged(0, IDS, splits=(300, -28)), "has negative splits"),
        (damaged(0, IDS, splits=None), "has splits on rank 1 but none on rank 0"),
        (damaged(0, IDS, vars={"n": 31.0}), "recorded 272 bytes, but '8*n + 16' gives 264"),
        (damaged(0, IDS, vars={}), "needs 'n'"),
        (damaged(0, IDS, group="pipeline"), "is in group 'pipeline', which trace.json does not list"),
        (damaged(1, IDS, group="first"), "is in group 'first', but rank 1 is not a member of it"),
        (damaged(0, LOOKUP, peer=2), "step 2 op 20 'lookup' has peer 2, but the job has ranks 0 to 1"),
        (damaged(0, IDS, peer=-1), "has peer -1, but the job has ranks 0 to 1"),
        (damaged(1, LOOKUP, group="first"), "'lookup' is on group 'first', of which rank 1 is not a member"),
        (damaged(0, LOOKUP, dur_us=25.0), "starts 5.000 us before its dependency 'lookup' ends"),
        (damaged(0, BACKWARD, start_us=2015.0), "'backward' overlaps 'lookup' on stream 'compute' by 5.000 us"),
        (damaged(0, PARTIALS, deps=(999,)), "depends on id 999, which does not exist"),
        (damaged(0, PARTIALS, deps=(22,)), "its dependency 'partials' ends"),
        (damaged(0, LOOKUP, id=21), "id 21 is used twice (lookup and ids)"),
        (damaged(0, BACKWARD, name="lookup"), "step 2 has two ops named 'lookup'"),
        (damaged(0, LOOKUP, flops=6401), "counted flops = 6401, but 'B' gives 64"),
        (
            damaged(0, LOOKUP, mem_bytes=100_000_000_000, mem_size="B*K*s"),
            "counted mem_bytes = 100000000000, but 'B*K*s' gives 4608",
        ),
        (damaged(0, LOOKUP, mem_bytes=46, mem_size="B*K*s"), "counted mem_bytes = 46, but 'B*K*s' gives 4608"),
        (damaged(0, LOOKUP, mem_size="U*s"), "needs 'U'"),
        (
            trace(recorded_steps=(2, 3)),
            "rank-00000.jsonl.gz: holds steps [2, 3, 4], trace.json says [2, 3]",
        ),
    ],
)
def test_each_error_is_described(broken, problem):
    problems = check_trace(broken, evaluate)
    assert any(problem in line for line in problems), problems


def test_an_even_all_to_all_needs_equal_bytes():
    ops = all_ops()
    for rank in (0, 1):
        ops[rank][IDS] = replace(ops[rank][IDS], splits=None)
    assert any("even all_to_all, but its bytes differ" in p for p in check_trace(trace(ops), evaluate))


def test_collectives_may_overlap():
    assert check_trace(damaged(0, PARTIALS, start_us=2022.0, deps=()), evaluate) == []


def test_collectives_in_different_orders_are_reported():
    ops = all_ops()
    ops[1][IDS], ops[1][PARTIALS] = ops[1][PARTIALS], ops[1][IDS]
    assert any("in different orders" in p for p in check_trace(trace(ops)))


def test_many_problems_of_one_kind_are_summarized():
    ops = [[replace(o, deps=(999,)) for o in rank] for rank in all_ops()]
    problems = check_trace(trace(ops))
    assert len(problems) == 2 * (check.MAX_LINES_PER_KIND + 1)
    assert "7 more: unknown dependencies" in problems[check.MAX_LINES_PER_KIND]


def test_problems_of_reading_are_listed_first():
    torn = replace(trace(), problems=("rank-00001.jsonl.gz:9: torn last line",))
    assert check_trace(torn) == ["rank-00001.jsonl.gz:9: torn last line"]
