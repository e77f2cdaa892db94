"""Ranks that share cores: exact against closed forms, and against a walk from one end to the next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dessim.sim.core.cores import TIME_SLICE_S
from dessim.sim.engine import simulate
from dessim.workload.dag import RankClass, Task, Workload
from tests.sim.test_engine import CLUSTER, RING, compute, job, reduce, ring

COARSE = 8 * 2.0**-24
"""Seconds: what rounding compute to whole ticks may change in a few ops."""


def alone(seconds: list[float]) -> Workload:
    """Each rank computes for so long, and nobody talks."""
    return job([((rank,), [compute("work", each)]) for rank, each in enumerate(seconds)])


def ends(workload: Workload, cores: int | None) -> list[float]:
    record = simulate(CLUSTER, workload, RING, cores=cores)
    return [span.end for span in sorted(record.spans, key=lambda span: span.rank_class)]


def shared(seconds: list[float], cores: int) -> list[float]:
    """When each is done: all that are left get the same share until the next one is done."""
    left, now, done = dict(enumerate(seconds)), 0.0, [0.0] * len(seconds)
    while left:
        rate = min(1.0, cores / len(left))
        first = min(left, key=lambda rank: left[rank])
        took = left[first] / rate
        left = {rank: rest - took * rate for rank, rest in left.items()}
        now += took
        for rank in [rank for rank, rest in left.items() if rest <= 1e-9]:
            done[rank] = now
            del left[rank]
    return done


@pytest.mark.parametrize(("ranks", "cores", "times"), [(2, 2, 1), (4, 2, 2), (8, 2, 4), (3, 2, 1.5), (1, 8, 1)])
def test_as_many_times_as_long_as_there_are_ranks_a_core(ranks: int, cores: int, times: float) -> None:
    assert ends(alone([2.0] * ranks), cores) == pytest.approx([2.0 * times] * ranks, abs=ranks * TIME_SLICE_S)
    assert max(ends(alone([2.0] * ranks), cores)) == pytest.approx(2.0 * times, abs=TIME_SLICE_S)
    assert ends(alone([2.0] * ranks), None) == [2.0] * ranks


@given(st.lists(st.integers(1, 40).map(lambda n: n / 4), min_size=1, max_size=7), st.integers(1, 4))
def test_unlike_ranks_equal_the_walk(seconds: list[float], cores: int) -> None:
    # As if all had the same share, but for whose turn it is.
    assert ends(alone(seconds), cores) == pytest.approx(shared(seconds, cores), abs=len(seconds) * TIME_SLICE_S)


def test_a_class_weighs_as_much_as_its_ranks() -> None:
    tasks = [compute("before", 1e-3), reduce("all", 50e6, 0), compute("after", 2e-3, 1)]
    together = job([(range(8), tasks)])
    apart = Workload("test", 8, tuple(RankClass((r,), tuple(tasks)) for r in range(8)), together.groups, (0,))
    expected = 4 * 3e-3 + ring(8, 50e6)
    assert simulate(CLUSTER, together, RING, cores=2).end == pytest.approx(expected, abs=COARSE)
    assert simulate(CLUSTER, apart, RING, cores=2).end == pytest.approx(expected, abs=COARSE)


def test_two_streams_of_a_rank_are_two_threads() -> None:
    tasks: list[Task] = [compute("one", 1.0), compute("other", 1.0, stream="prefetch")]
    assert simulate(CLUSTER, job([((0,), tasks)]), cores=1).end == pytest.approx(2.0)
    assert simulate(CLUSTER, job([((0,), tasks)]), cores=2).end == pytest.approx(1.0)


def test_who_communicates_leaves_its_core_to_others() -> None:
    size = 50e6
    talking = [reduce("all", size, group="pair"), compute("after", 1e-3, 0)]
    busy = [compute("work", 10e-3)]
    workload = job([((0, 1), talking), ((2,), busy)], pair=(0, 1))
    record = simulate(CLUSTER, workload, RING, cores=1)
    # Three threads compute for a while, of which two want 1 ms each.
    assert record.end == pytest.approx(10e-3 + 2 * 1e-3, abs=COARSE)
    assert ring(2, size) < 10e-3
