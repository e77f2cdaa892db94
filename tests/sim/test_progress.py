"""The progress: shares add up, the budget ends a run, and looking changes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dessim.errors import OutOfTime
from dessim.sim.progress import Progress


def clock(step: float = 1.0) -> Callable[[], float]:
    """A clock that is `step` seconds further each time it is looked at."""
    ticks = itertools.count()
    return lambda: step * next(ticks)


def test_a_part_is_its_share_of_the_whole() -> None:
    seen = []
    progress = Progress(report=lambda share, text: seen.append((share, text)), clock=clock())
    half = progress.within(1, 2, "cases")
    half.tick(0, 4, "flows")
    half.within(2, 4, "stages").tick(1, 2, "flows_left")
    assert seen == [
        (0.5, "1 of 2 cases"),
        (0.5, "1 of 2 cases, 0 of 4 flows"),
        (0.75, "1 of 2 cases, 2 of 4 stages"),
        (0.8125, "1 of 2 cases, 2 of 4 stages, 1 of 2 flows left"),
    ]


def test_parts_may_be_of_different_size() -> None:
    seen = []
    progress = Progress(report=lambda share, text: seen.append(share), clock=clock())
    progress.within(0, 5).tick(1, 2)
    progress.within(1, 5, parts=4).tick(3, 4)
    assert seen == pytest.approx([0, 0.1, 0.2, 0.8])


def test_one_of_one_is_not_told() -> None:
    seen = []
    progress = Progress(report=lambda share, text: seen.append(text), clock=clock())
    progress.within(0, 1, "cases").within(0, 2).tick(3, 4, "flows")
    assert seen[-1] == "3 of 4 flows"


def test_reports_are_rare() -> None:
    seen = []
    progress = Progress(report=lambda share, text: seen.append(share), clock=clock(0.01))
    for done in range(1000):
        progress.tick(done, 1000)
    assert 90 <= len(seen) <= 101


def test_the_budget_ends_the_run_and_tells_how_far_it_came() -> None:
    progress = Progress(budget_s=3.5, clock=clock()).within(1, 4, "cases")
    progress.tick(1, 10, "flows")
    progress.check()
    with pytest.raises(
        OutOfTime, match=r"^time budget of 3.5 s spent with 30.0% done \(1 of 4 cases, 2 of 10 flows\)$"
    ) as cut:
        progress.tick(2, 10, "flows")
    assert cut.value.so_far == {"share_done": 0.3, "cases_done": 1, "cases": 4, "flows_done": 2, "flows": 10}
    assert cut.value.exit_code == 1
    again = type(cut.value)(*cut.value.args)  # as simpy raises what a process did not catch
    assert (str(again), again.so_far) == (str(cut.value), cut.value.so_far)
    with pytest.raises(OutOfTime) as cut:
        progress.check()
    assert cut.value.so_far["flows_done"] == 2, "what was last heard of"


def test_what_is_finished_is_not_thrown_away() -> None:
    progress = Progress(budget_s=0.0)
    progress.tick(5, 5, "flows")
    with pytest.raises(OutOfTime):
        progress.tick(4, 5, "flows")


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_shares_never_go_back_and_stay_below_one(totals: list[int]) -> None:
    seen = []
    progress = Progress(report=lambda share, text: seen.append(share), clock=clock())

    def walk(progress: Progress, left: list[int]) -> None:
        for done in range(left[0]):
            part = progress.within(done, left[0], f"level{len(left)}")
            if left[1:]:
                walk(part, left[1:])

    walk(progress, totals)
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] < 1
    progress.tick(1, 1)
    assert seen[-1] == 1
