"""Ranks that share cores, compared with closed forms and with an event-by-event calculation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dessim.sim.core.cores import TIME_SLICE_S
from dessim.sim.engine import simulate
from dessim.workload.dag import RankClass, Task, Workload
from tests.sim.test_engine import CLUSTER, RING, compute, job, reduce, ring

ROUNDING_S = 8 * 2.0**-24
"""Seconds by which rounding compute to whole ticks may change the end of a few ops."""


def compute_only(seconds: list[float]) -> Workload:
    """Rank i computes for `seconds[i]`, without communication."""
    return job([((rank,), [compute("work", duration)]) for rank, duration in enumerate(seconds)])


def ends(workload: Workload, cores: int | None) -> list[float]:
    record = simulate(CLUSTER, workload, RING, cores=cores)
    return [span.end for span in sorted(record.spans, key=lambda span: span.rank_class)]


def shared(seconds: list[float], cores: int) -> list[float]:
    """When each rank finishes if all unfinished ranks always have the same share of the cores."""
    left = dict(enumerate(seconds))
    now = 0.0
    done = [0.0] * len(seconds)
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
def test_compute_is_prolonged_by_the_number_of_ranks_per_core(ranks: int, cores: int, times: float) -> None:
    assert ends(compute_only([2.0] * ranks), cores) == pytest.approx([2.0 * times] * ranks, abs=ranks * TIME_SLICE_S)
    assert max(ends(compute_only([2.0] * ranks), cores)) == pytest.approx(2.0 * times, abs=TIME_SLICE_S)
    assert ends(compute_only([2.0] * ranks), None) == [2.0] * ranks


@given(st.lists(st.integers(1, 40).map(lambda n: n / 32), min_size=1, max_size=7), st.integers(1, 4))
def test_ranks_with_different_work_share_cores_fairly(seconds: list[float], cores: int) -> None:
    # Equal shares, up to the time slices of the ranks.
    assert ends(compute_only(seconds), cores) == pytest.approx(shared(seconds, cores), abs=len(seconds) * TIME_SLICE_S)


def test_a_class_needs_as_many_cores_as_its_ranks() -> None:
    tasks = [compute("before", 1e-3), reduce("all", 50e6, 0), compute("after", 2e-3, 1)]
    one_class = job([(range(8), tasks)])
    eight_classes = Workload("test", 8, tuple(RankClass((r,), tuple(tasks)) for r in range(8)), one_class.groups, (0,))
    expected = 4 * 3e-3 + ring(8, 50e6)
    assert simulate(CLUSTER, one_class, RING, cores=2).end == pytest.approx(expected, abs=ROUNDING_S)
    assert simulate(CLUSTER, eight_classes, RING, cores=2).end == pytest.approx(expected, abs=ROUNDING_S)


def test_two_streams_of_a_rank_are_two_threads() -> None:
    tasks: list[Task] = [compute("one", 1.0), compute("other", 1.0, stream="prefetch")]
    assert simulate(CLUSTER, job([((0,), tasks)]), cores=1).end == pytest.approx(2.0)
    assert simulate(CLUSTER, job([((0,), tasks)]), cores=2).end == pytest.approx(1.0)


def test_a_communicating_rank_leaves_its_core_to_others() -> None:
    size = 50e6
    communicating = [reduce("all", size, group="pair"), compute("after", 1e-3, 0)]
    busy = [compute("work", 10e-3)]
    workload = job([((0, 1), communicating), ((2,), busy)], pair=(0, 1))
    record = simulate(CLUSTER, workload, RING, cores=1)
    # Three threads compute for a while, and two of them need 1 ms each.
    assert record.end == pytest.approx(10e-3 + 2 * 1e-3, abs=ROUNDING_S)
    assert ring(2, size) < 10e-3
