"""Bounded staleness: in any order of events no worker exceeds the bound and nothing is counted twice."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from des_ref.strategies.staleness import Clocks, StalenessStats


@given(workers=st.integers(1, 5), bound=st.integers(0, 4), steps=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_no_pull_is_staler_than_the_bound_and_all_workers_finish(
    workers: int, bound: int, steps: int, seed: int
) -> None:
    rng, clocks = random.Random(seed), Clocks(workers, bound)
    pulled, pushed, log = [0] * workers, [0] * workers, []
    left = list(range(workers))
    staleness: list[int] = []
    while left:
        # Some worker can always continue: the slowest is never blocked.
        able = [w for w in left if pulled[w] > pushed[w] or clocks.may_pull(w)]
        assert able
        worker = rng.choice(able)
        if pulled[worker] > pushed[worker]:
            clocks.push(worker)
            pushed[worker] += 1
            log.append(worker)
            if pushed[worker] == steps:
                clocks.finish(worker)
                left.remove(worker)
        else:
            staleness.append(pushed[worker] - min(pushed[w] for w in left))
            clocks.pull(worker)
            pulled[worker] += 1
    assert max(staleness) <= bound
    stats = clocks.stats
    assert (stats.pulls, stats.stale, stats.most_stale) == (workers * steps, sum(staleness), max(staleness))
    if workers == 1:
        assert stats.missed == stats.stale == 0
    assert clocks.all_finished and len(log) == workers * steps


def test_missed_pushes_of_other_workers_are_counted() -> None:
    clocks = Clocks(2, bound=3)
    clocks.pull(0)
    clocks.pull(1)
    clocks.push(1)
    clocks.pull(1)  # one step ahead of worker 0
    clocks.push(1)
    clocks.push(0)  # its pull preceded both pushes of worker 1
    assert clocks.stats == StalenessStats(pulls=3, stale=1, most_stale=1, missed=2, most_missed=2)
    assert clocks.stats.to_json() == {"mean": 1 / 3, "max": 1, "missed_mean": 2 / 3, "missed_max": 2}


def test_the_slowest_worker_is_waited_for_until_it_finishes() -> None:
    clocks = Clocks(2, bound=1)
    for _ in range(2):
        assert clocks.may_pull(0)
        clocks.pull(0)
        clocks.push(0)
    assert not clocks.may_pull(0) and clocks.may_pull(1)
    clocks.finish(1)
    assert clocks.may_pull(0) and not clocks.all_finished
