"""The breakdown of a step, on hand-written records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dessim.results.metrics import breakdown, step_times
from dessim.sim.core.recorder import Record, Span
from dessim.trace.schema import Collective, Kind, Phase
from dessim.workload.dag import Task


def span(rank: int, name: str, start: float, end: float, moving_since: float | None = None, **changes: object) -> Span:
    """A compute op, or a collective that moved data from `moving_since` on."""
    task = Task(name, 0, Phase.FORWARD, Kind.COMPUTE, "compute")
    base = Span(rank, task, start, start, end, parts={"compute": end - start})
    if moving_since is not None:
        reduce = {"stream": "comm", "collective": Collective.ALL_REDUCE, "size": 8.0, "group": "world"}
        task = replace(task, kind=Kind.COLLECTIVE, **reduce)
        base = replace(base, task=task, moving_since=moving_since, parts={"nic_up": end - moving_since})
    of_task = {key: value for key, value in changes.items() if key in Task.__slots__}
    of_span = {key: value for key, value in changes.items() if key not in of_task}
    return replace(base, task=replace(task, **of_task), **of_span)


def record(*spans: Span) -> Record:
    return Record(2, ((0,), (1,)), list(spans))


def test_parts_sum_to_the_step_and_overlap_counts_as_compute() -> None:
    both = [
        op
        for rank in range(2)
        for op in (
            span(rank, "lookup", 0, 2),
            span(rank, "partials", 1, 5, moving_since=2),
            span(rank, "tail", 6, 9),
        )
    ]
    found = breakdown(record(*both))
    assert (found.compute_s, found.exposed_comm_s, found.idle_s) == (5, 3, 1)
    assert found.step_time_s == 9 == step_times(record(*both))[0]
    (partials,) = found.comm_by_op
    assert (partials.time_s, partials.exposed_s) == (3, 3)


def test_the_wait_of_an_early_rank_is_not_part_of_the_step() -> None:
    # The step starts when its last rank does, at 10; the wait of rank 0 before that is not part of it.
    found = breakdown(record(span(0, "ids", 0, 12, moving_since=10), span(1, "ids", 10, 12, moving_since=10)))
    assert found.step_time_s == found.exposed_comm_s == 2
    assert found.comm_by_op[0].exposed_s == pytest.approx(2)


def test_collectives_side_by_side_are_exposed_once() -> None:
    spans = [span(r, name, 0, 4, moving_since=0, stream=name) for r in range(2) for name in ("a", "b")]
    found = breakdown(record(*spans))
    assert found.exposed_comm_s == 4 and [op.exposed_s for op in found.comm_by_op] == [4, 4]
