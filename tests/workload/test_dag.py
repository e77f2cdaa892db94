"""Workloads whose ranks differ, and workloads of a single collective."""

from __future__ import annotations

import numpy as np
import pytest

from dessim.trace.schema import Collective, Kind, Phase
from dessim.workload.dag import WORLD, RankClass, Task, Workload
from dessim.workload.one_collective import collective_task, collectives_at_once, one_collective


def work(*classes: tuple[range, int]) -> Workload:
    """Classes of ranks, each with a number of ops of one second."""

    def tasks(count: int) -> tuple[Task, ...]:
        return tuple(Task(f"op {i}", 0, Phase.FORWARD, Kind.COMPUTE, "compute", duration=1.0) for i in range(count))

    rank_classes = tuple(RankClass(ranks, tasks(count)) for ranks, count in classes)
    return Workload("test", sum(len(ranks) for ranks, _ in classes), rank_classes, {}, (0,))


def test_one_by_one_orders_classes_by_rank() -> None:
    apart = work((range(2, 4), 1), (range(2), 3)).one_by_one()
    assert [c.ranks for c in apart.classes] == [(0,), (1,), (2,), (3,)]
    assert [len(c.tasks) for c in apart.classes] == [3, 3, 1, 1]


def test_uneven_compute_has_the_given_mean_and_spread() -> None:
    uneven = work((range(50), 200)).uneven(0.3)
    times = np.array([[task.duration for task in c.tasks] for c in uneven.classes])
    assert times.mean() == pytest.approx(1.0, rel=0.01)
    assert times.std() == pytest.approx(0.3, rel=0.03)
    # Every op of every rank differs.
    assert len(np.unique(times)) == times.size
    assert abs(times.mean(axis=1) - 1).max() < 0.1


def test_uneven_compute_is_reproducible_and_without_spread_changes_nothing() -> None:
    plain = work((range(3), 4))
    assert plain.uneven(0.3) == plain.uneven(0.3) != plain.uneven(0.3, seed=1)
    assert plain.uneven(0.0) == plain.one_by_one()


def test_one_collective_has_one_class_of_ranks_unless_they_send_different_sizes() -> None:
    same = one_collective(Collective.ALL_REDUCE, 4, 1e6)
    assert same.groups == {WORLD: range(4)} and [c.ranks for c in same.classes] == [range(4)]
    (task,) = same.classes[0].tasks
    assert (task.collective, task.size, task.splits, task.group) == (Collective.ALL_REDUCE, 1e6, None, WORLD)
    different = one_collective(Collective.ALL_TO_ALL, 2, 3.0, splits=[[1.0, 2.0], [2.0, 1.0]])
    assert [c.ranks for c in different.classes] == [(0,), (1,)]
    assert [c.tasks[0].splits for c in different.classes] == [(1.0, 2.0), (2.0, 1.0)]


def test_collectives_at_once_run_on_their_own_ranks() -> None:
    groups = {"a": [0, 2], "b": [1, 3]}
    tasks = [(ranks, collective_task(Collective.ALL_GATHER, 8.0, group=group)) for group, ranks in groups.items()]
    both = collectives_at_once(tasks, groups, 5, name="two jobs")
    assert (both.name, both.n_ranks, [c.tasks[0].group for c in both.classes]) == ("two jobs", 5, ["a", "b"])
