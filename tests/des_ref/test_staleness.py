"""Bounded staleness as bookkeeping: whatever the order of events, nobody runs ahead and nothing is counted twice."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from des_ref.strategies.staleness import Clocks, Tally


@given(workers=st.integers(1, 5), bound=st.integers(0, 4), steps=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_no_pull_is_staler_than_the_bound_and_all_workers_finish(
    workers: int, bound: int, steps: int, seed: int
) -> None:
    rng, clocks = random.Random(seed), Clocks(workers, bound)
    pulled, pushed, log = [0] * workers, [0] * workers, []
    left = list(range(workers))
    staleness: list[int] = []
    while left:
        # Somebody can always go on: the slowest is never held.
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
    tally = clocks.tally
    assert (tally.pulls, tally.stale, tally.most_stale) == (workers * steps, sum(staleness), max(staleness))
    if workers == 1:
        assert tally.missed == tally.stale == 0
    assert clocks.all_finished and len(log) == workers * steps


def test_what_a_gradient_did_not_know_of() -> None:
    clocks = Clocks(2, bound=3)
    clocks.pull(0)
    clocks.pull(1)
    clocks.push(1)
    clocks.pull(1)  # one step ahead of worker 0
    clocks.push(1)
    clocks.push(0)  # knows of neither push of worker 1
    assert clocks.tally == Tally(pulls=3, stale=1, most_stale=1, missed=2, most_missed=2)
    assert clocks.tally.to_json() == {"mean": 1 / 3, "max": 1, "missed_mean": 2 / 3, "missed_max": 2}


def test_the_slowest_is_waited_for_until_it_is_done() -> None:
    clocks = Clocks(2, bound=1)
    for _ in range(2):
        assert clocks.may_pull(0)
        clocks.pull(0)
        clocks.push(0)
    assert not clocks.may_pull(0) and clocks.may_pull(1)
    clocks.finish(1)
    assert clocks.may_pull(0) and not clocks.all_finished
