"""Progress of a long run, and its budget of wall-clock time.

The caller that starts a run passes a `Progress` to each long-running part of it. Each part reports how much of its own
work it has done. The progress reports the share done of the whole run, and ends the run when its time budget is spent.
It only observes: a run that ends by itself gives the same result with or without it. A run may exceed its budget by the
longest piece of work between two checks, such as routing or folding one stage.

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
_Level = tuple[str, float, float]  # what is counted, how many are done, of how many

_REPORT_INTERVAL_S = 0.1


class _Run:
    """State that all parts of one run share.

    `share` is the largest share done so far (parts may run side by side), `levels` the nested counts last reported.
    """

    def __init__(self, budget_s: float, report: Report | None, clock: Clock) -> None:
        self.budget_s = budget_s
        self.report = report
        self.clock = clock
        self.began = clock()
        self.reported = -math.inf
        self.share = 0.0
        self.levels: tuple[_Level, ...] = ()


class Progress:
    """Progress of a run, or of a part of one.

    `budget_s` is wall-clock time in seconds from now on, unlimited by default. `report(share, text)` is called at most
    ten times a second with the share done, from 0 to 1, and a text of counts. `clock` returns seconds.
    """

    def __init__(self, budget_s: float = math.inf, report: Report | None = None, clock: Clock = time.monotonic) -> None:
        self._run = _Run(budget_s, report, clock)
        self._begin = 0.0  # the part's share of the whole run, from here ...
        self._width = 1.0  # ... and as wide as this
        self._levels: tuple[_Level, ...] = ()

    def within(self, done: float, total: float, what: str = "", parts: float = 1) -> Progress:
        """The progress of the next part (or several `parts`) of `total`, of which `done` are done; `what` names them.

        Raises OutOfTime.
        """
        if total == 1 and not what:
            return self  # a level that counts to one would only lengthen the text
        self.tick(done, total, what)
        part = object.__new__(Progress)
        part._run = self._run
        part._levels = self._with_level(done, total, what)
        part._begin = self._begin + self._width * done / total
        part._width = self._width * parts / total
        return part

    def tick(self, done: float, total: float, what: str = "") -> None:
        """Report that `done` of `total` are done. Raises OutOfTime if the budget is spent and work is left."""
        run = self._run
        now = run.clock()
        run.share = max(run.share, self._begin + self._width * done / total)
        run.levels = self._with_level(done, total, what)
        if done < total and now - run.began >= run.budget_s:
            self._stop()
        if run.report is not None and now - run.reported >= _REPORT_INTERVAL_S:
            run.reported = now
            run.report(run.share, _text(run.levels))

    def check(self) -> None:
        """Check the budget without reporting. Raises OutOfTime when it is spent."""
        if self._run.clock() - self._run.began >= self._run.budget_s:
            self._stop()

    def _with_level(self, done: float, total: float, what: str) -> tuple[_Level, ...]:
        return (*self._levels, (what, done, total)) if what and total > 1 else self._levels

    def _stop(self) -> NoReturn:
        run = self._run
        so_far: dict[str, float] = {"share_done": run.share}
        for what, done, total in run.levels:
            so_far |= {f"{what}_done": done, what: total}
        counts = f" ({_text(run.levels)})" if run.levels else ""
        raise OutOfTime(f"time budget of {format_time(run.budget_s)} spent with {run.share:.1%} done{counts}", so_far)


def _text(levels: tuple[_Level, ...]) -> str:
    return ", ".join(f"{done:,} of {total:,} {what.replace('_', ' ')}" for what, done, total in levels)
