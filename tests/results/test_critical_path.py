"""The critical path is as long as the step, and alone explains the step time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dessim.cluster import load_cluster
from dessim.results.critical_path import HOST, _Predecessors, critical_path, fold_short_ops
from dessim.results.metrics import breakdown, step_windows
from dessim.sim.core.bounds import LATE
from dessim.sim.core.recorder import Record
from dessim.sim.engine import simulate
from dessim.trace.schema import Collective, Kind, Phase
from dessim.workload.dag import RankClass, Task, Workload

CLUSTER = load_cluster("one-switch_16")
RING = {Collective.ALL_REDUCE: "ring"}


def compute(name: str, seconds: float, *deps: int, stream: str = "compute", **rest: Any) -> Task:
    return replace(Task(name, 0, Phase.FORWARD, Kind.COMPUTE, stream, deps, duration=seconds), **rest)


def reduce(name: str, size: float, *deps: int, **rest: Any) -> Task:
    task = Task(name, 0, Phase.FORWARD, Kind.COLLECTIVE, "comm", deps, group="world", size=size)
    return replace(task, collective=Collective.ALL_REDUCE, **rest)


def run(*ranks: Sequence[Task]) -> Record:
    classes = tuple(RankClass((rank,), tuple(tasks)) for rank, tasks in enumerate(ranks))
    steps = tuple(dict.fromkeys(task.step for tasks in ranks for task in tasks))
    return simulate(CLUSTER, Workload("test", len(ranks), classes, {"world": range(len(ranks))}, steps), RING)


def seconds(record: Record) -> dict[tuple[str, str], float]:
    return {(op.name, op.what): op.time_s for op in critical_path(record, step_windows(record))}


def test_ops_hidden_behind_others_are_not_on_the_path() -> None:
    tasks = [
        compute("a", 1e-3),
        reduce("all", 50e6, 0),
        compute("beside", 9e-3, 0),
        compute("after", 2e-3, 1, 2),
    ]
    path = seconds(run(tasks, tasks))
    assert list(path) == [("a", "compute"), ("beside", "compute"), ("after", "compute")]
    assert list(path.values()) == pytest.approx([1e-3, 9e-3, 2e-3])


def test_the_path_leads_through_the_late_rank_and_its_host() -> None:
    early = [compute("work", 1e-3), reduce("all", 8.0, 0)]
    late = [compute("work", 3e-3), reduce("all", 8.0, 0, delay=5e-3)]
    record = run(early, late)
    path = critical_path(record, step_windows(record))
    assert [(op.name, op.what, op.rank) for op in path] == [
        ("work", "compute", 1),
        ("all", HOST, 1),
        ("all", "all_reduce", 0),
    ]
    assert [op.time_s for op in path[:2]] == pytest.approx([3e-3, 5e-3])
    assert path[2].bound_by == "latency"
    found = breakdown(record)
    assert found.bound_by == HOST  # 5 of 8 ms
    # Rank 0 waits 7 ms and rank 1 does not, so on average the late rank accounts for most of the time of the op.
    assert found.comm_by_op[0].bound_by == LATE


def test_an_op_waits_for_the_one_before_it_on_its_stream() -> None:
    tasks = [compute("slow", 3e-3, stream="copy"), compute("first", 1e-3, 0), compute("second", 1e-3)]
    assert list(seconds(run(tasks))) == [("slow", "compute"), ("first", "compute"), ("second", "compute")]


def test_several_steps_are_averaged() -> None:
    tasks = [
        compute("work", 1e-3),
        reduce("all", 8e3, 0),
        compute("work", 3e-3, 1, step=1),
        reduce("all", 8e3, 2, step=1),
    ]
    record = run(tasks, tasks)
    path = seconds(record)
    assert path["work", "compute"] == pytest.approx(2e-3)
    assert sum(path.values()) == pytest.approx(breakdown(record).step_time_s, rel=1e-12)


@st.composite
def jobs(draw: st.DrawFn) -> list[list[Task]]:
    """The same ops on two or three ranks, each with its own durations, delays and dependencies."""
    kinds = draw(st.lists(st.sampled_from(["compute", "copy", "comm"]), min_size=1, max_size=8))
    time = st.floats(0, 1e-2)
    ranks = []
    for _ in range(draw(st.integers(2, 3))):
        tasks = []
        for i, kind in enumerate(kinds):
            deps = draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set()
            delay = draw(st.just(0.0) | time)
            task = reduce(f"op{i}", 1e6) if kind == "comm" else compute(f"op{i}", draw(time), stream=kind)
            tasks.append(replace(task, deps=tuple(sorted(deps)), delay=delay))
        ranks.append(tasks)
    return ranks


@given(jobs())
@settings(max_examples=60, deadline=None)
def test_the_path_is_as_long_as_the_step_and_alone_explains_it(ranks: list[list[Task]]) -> None:
    record = run(*ranks)
    ((step, window),) = step_windows(record).items()
    segments = _Predecessors(record).path(step, window)
    if window[1] > window[0]:
        assert (segments[0].start, segments[-1].end) == window
    assert all(a.end == b.start for a, b in itertools.pairwise(segments))
    path = critical_path(record, {step: window})
    assert sum(op.time_s for op in path) == pytest.approx(window[1] - window[0], rel=1e-12, abs=1e-18)

    # With the time of all other ops and waits set to zero the step ends at the same time; its start may move.
    whole = _Predecessors(record).path(step, (0.0, window[1]))
    kept = {(s.span.rank_class, s.span.index, s.is_wait) for s in whole}
    alone = [
        [
            replace(
                task,
                duration=task.duration if (rank, i, False) in kept else 0.0,
                delay=task.delay if (rank, i, True) in kept else 0.0,
            )
            for i, task in enumerate(tasks)
        ]
        for rank, tasks in enumerate(ranks)
    ]
    assert run(*alone).end == pytest.approx(record.end, rel=1e-9)


def path_row(name: str, seconds: float, bound: str = "compute") -> dict[str, Any]:
    return {"name": name, "what": "compute", "time_s": seconds, "time_by_bound_s": {bound: seconds}, "bound_by": bound}


def test_ops_below_one_percent_share_the_last_row() -> None:
    path = [path_row("a", 0.5), path_row("b", 0.004), path_row("c", 0.49), path_row("d", 0.006, "latency")]
    folded = fold_short_ops(path, step_time_s=1.0)
    assert [op["name"] for op in folded] == ["a", "c", "other (2 ops)"]
    assert folded[-1]["time_s"] == pytest.approx(0.01) and folded[-1]["bound_by"] == "latency"
    assert sum(op["time_s"] for op in folded) == pytest.approx(sum(op["time_s"] for op in path))


def test_a_single_short_op_keeps_its_row() -> None:
    path = [path_row("a", 0.999), path_row("b", 0.001)]
    assert fold_short_ops(path, step_time_s=1.0) == path
