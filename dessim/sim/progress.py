"""How far a run has come, and when it has to stop.

A `Progress` is handed down from the caller that starts a run to each long-running part of it. Each part says how much
of its work it has done; the progress reports the share done of the whole, and ends the run when its budget of
wall-clock time is spent. It only observes: a run that ends by itself gives the same result with or without
it. A budget may be overdrawn by the longest piece of work between two looks, such as routing or folding one stage.

    progress = Progress(budget_s=30.0, report=print)
    for done, case in enumerate(cases):
        simulate(..., progress=progress.within(done, len(cases), "cases"))
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NoReturn

from dessim.errors import OutOfTime
from dessim.units import format_time

Report = Callable[[float, str], None]
Clock = Callable[[], float]
_Part = tuple[str, float, float]  # what, how many are over, of how many

_PAUSE_S = 0.1  # between two reports at least


class _Run:
    """What the watches of one run share: its clock, the most that was ever done (parts may run side by side), and the
    part last heard of."""

    def __init__(self, budget_s: float, report: Report | None, clock: Clock) -> None:
        self.budget_s, self.report, self.clock = budget_s, report, clock
        self.began, self.reported, self.share = clock(), -math.inf, 0.0
        self.path: tuple[_Part, ...] = ()


class Progress:
    """A look at a run, or at a part of one.

    `budget_s` is wall-clock time in seconds from now on, endless unless given. `report(share, text)` is called at most
    ten times a second with the share done, from 0 to 1, and what that is made of. `clock` tells seconds.
    """

    def __init__(self, budget_s: float = math.inf, report: Report | None = None, clock: Clock = time.monotonic) -> None:
        self._run = _Run(budget_s, report, clock)
        self._low, self._width = 0.0, 1.0  # of the whole run, the part looked at
        self._path: tuple[_Part, ...] = ()

    def within(self, done: float, total: float, what: str = "", parts: float = 1) -> Progress:
        """A look at the next one (or several `parts`) of `total`, `done` of which are over. `what` names them."""
        if total == 1 and not what:
            return self  # the whole, which has more to tell by itself
        self.tick(done, total, what)
        part = object.__new__(Progress)
        part._run, part._path = self._run, self._on(done, total, what)
        part._low, part._width = self._low + self._width * done / total, self._width * parts / total
        return part

    def tick(self, done: float, total: float, what: str = "") -> None:
        """`done` of `total` are over. Raises OutOfTime when the budget is spent and something is left to do."""
        run, now = self._run, self._run.clock()
        run.share = max(run.share, self._low + self._width * done / total)
        run.path = self._on(done, total, what)
        if done < total and now - run.began >= run.budget_s:
            self._stop()
        if run.report is not None and now - run.reported >= _PAUSE_S:
            run.reported = now
            run.report(run.share, _text(run.path))

    def check(self) -> None:
        """Nothing new is over, but work goes on. Raises OutOfTime when the budget is spent."""
        if self._run.clock() - self._run.began >= self._run.budget_s:
            self._stop()

    def _on(self, done: float, total: float, what: str) -> tuple[_Part, ...]:
        # One of one is not worth telling.
        return (*self._path, (what, done, total)) if what and total > 1 else self._path

    def _stop(self) -> NoReturn:
        run = self._run
        so_far: dict[str, float] = {"share_done": run.share}
        for what, done, total in run.path:
            so_far |= {f"{what}_done": done, what: total}
        parts = f" ({_text(run.path)})" if run.path else ""
        raise OutOfTime(f"time budget of {format_time(run.budget_s)} spent with {run.share:.1%} done{parts}", so_far)


def _text(path: tuple[_Part, ...]) -> str:
    return ", ".join(f"{done:,} of {total:,} {what.replace('_', ' ')}" for what, done, total in path)
