"""Progress: nested shares add up, and a time budget ends a run."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dessim.errors import OutOfTime
from dessim.sim.progress import Progress


def clock(step: float = 1.0) -> Callable[[], float]:
    """A clock that advances by `step` seconds each time it is read."""
    ticks = itertools.count()
    return lambda: step * next(ticks)


def test_nested_progress_reports_its_share_of_the_whole() -> None:
    reports = []
    progress = Progress(report=lambda share, text: reports.append((share, text)), clock=clock())
    half = progress.within(1, 2, "cases")
    half.tick(0, 4, "flows")
    half.within(2, 4, "stages").tick(1, 2, "flows_left")
    assert reports == [
        (0.5, "1 of 2 cases"),
        (0.5, "1 of 2 cases, 0 of 4 flows"),
        (0.75, "1 of 2 cases, 2 of 4 stages"),
        (0.8125, "1 of 2 cases, 2 of 4 stages, 1 of 2 flows left"),
    ]


def test_parts_may_have_different_sizes() -> None:
    reports = []
    progress = Progress(report=lambda share, text: reports.append(share), clock=clock())
    progress.within(0, 5).tick(1, 2)
    progress.within(1, 5, parts=4).tick(3, 4)
    assert reports == pytest.approx([0, 0.1, 0.2, 0.8])


def test_a_level_of_one_part_is_not_reported() -> None:
    reports = []
    progress = Progress(report=lambda share, text: reports.append(text), clock=clock())
    progress.within(0, 1, "cases").within(0, 2).tick(3, 4, "flows")
    assert reports[-1] == "3 of 4 flows"


def test_at_most_about_100_reports_are_made() -> None:
    reports = []
    progress = Progress(report=lambda share, text: reports.append(share), clock=clock(0.01))
    for done in range(1000):
        progress.tick(done, 1000)
    assert 90 <= len(reports) <= 101


def test_a_time_budget_ends_the_run_with_the_progress_so_far() -> None:
    progress = Progress(budget_s=3.5, clock=clock()).within(1, 4, "cases")
    progress.tick(1, 10, "flows")
    progress.check()
    with pytest.raises(
        OutOfTime, match=r"^time budget of 3.5 s spent with 30.0% done \(1 of 4 cases, 2 of 10 flows\)$"
    ) as cut:
        progress.tick(2, 10, "flows")
    assert cut.value.so_far == {"share_done": 0.3, "cases_done": 1, "cases": 4, "flows_done": 2, "flows": 10}
    assert cut.value.exit_code == 1
    copy = type(cut.value)(*cut.value.args)  # simpy copies exceptions of processes in this way
    assert (str(copy), copy.so_far) == (str(cut.value), cut.value.so_far)
    with pytest.raises(OutOfTime) as cut:
        progress.check()
    assert cut.value.so_far["flows_done"] == 2, "the last progress reported"


def test_finished_work_is_kept_after_the_budget_is_spent() -> None:
    progress = Progress(budget_s=0.0)
    progress.tick(5, 5, "flows")
    with pytest.raises(OutOfTime):
        progress.tick(4, 5, "flows")


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_shares_never_decrease_and_reach_one_only_at_the_end(totals: list[int]) -> None:
    reports = []
    progress = Progress(report=lambda share, text: reports.append(share), clock=clock())

    def walk(progress: Progress, left: list[int]) -> None:
        for done in range(left[0]):
            part = progress.within(done, left[0], f"level{len(left)}")
            if left[1:]:
                walk(part, left[1:])

    walk(progress, totals)
    assert reports == sorted(reports) and reports[0] == 0 and reports[-1] < 1
    progress.tick(1, 1)
    assert reports[-1] == 1
