"""Workloads whose ranks are told apart."""

from __future__ import annotations

import numpy as np
import pytest

from dessim.trace.schema import Kind, Phase
from dessim.workload.dag import RankClass, Task, Workload


def work(*classes: tuple[range, int]) -> Workload:
    """Classes of ranks with so many ops of a second each."""

    def tasks(count: int) -> tuple[Task, ...]:
        return tuple(Task(f"op {i}", 0, Phase.FORWARD, Kind.COMPUTE, "compute", duration=1.0) for i in range(count))

    made = tuple(RankClass(ranks, tasks(count)) for ranks, count in classes)
    return Workload("test", sum(len(ranks) for ranks, _ in classes), made, {}, (0,))


def test_one_by_one_keeps_the_order_of_ranks() -> None:
    apart = work((range(2, 4), 1), (range(2), 3)).one_by_one()
    assert [c.ranks for c in apart.classes] == [(0,), (1,), (2,), (3,)]
    assert [len(c.tasks) for c in apart.classes] == [3, 3, 1, 1]


def test_uneven_compute_has_the_mean_and_the_spread_that_it_should() -> None:
    uneven = work((range(50), 200)).uneven(0.3)
    times = np.array([[task.duration for task in c.tasks] for c in uneven.classes])
    assert times.mean() == pytest.approx(1.0, rel=0.01)
    assert times.std() == pytest.approx(0.3, rel=0.03)
    # Neither ranks nor ops are alike.
    assert len(np.unique(times)) == times.size
    assert abs(times.mean(axis=1) - 1).max() < 0.1


def test_uneven_compute_is_the_same_each_time_and_none_where_nothing_varies() -> None:
    plain = work((range(3), 4))
    assert plain.uneven(0.3) == plain.uneven(0.3) != plain.uneven(0.3, seed=1)
    assert plain.uneven(0.0) == plain.one_by_one()
