"""Long runs on the command line: a bar with the time left, and a partial result when `--time-budget` is spent."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from dessim.cli.output import print_json
from dessim.errors import OutOfTime, UnitError, UsageError
from dessim.sim.progress import Progress
from dessim.units import format_time, parse_time

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

TimeBudgetOption = Annotated[
    str | None,
    typer.Option("--time-budget", help="Stop after this long, such as 30s or 10min, with what is known by then."),
]

_PATIENCE_S = 1.0  # shorter runs get no bar


@contextmanager
def showing_progress(time_budget: str | None, clock: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
    """A progress that ends after `--time-budget`, and draws a bar on stderr where that is a terminal.

    Raises UsageError for a budget that is none.
    """
    try:
        budget = {} if time_budget is None else {"budget_s": parse_time(time_budget)}
    except UnitError:
        raise UsageError(f"--time-budget {time_budget!r}: write a time such as 30s or 10min") from None
    bar = _Bar(clock)
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    try:
        yield Progress(report=bar.show if terminal else None, clock=clock, **budget)
    finally:
        bar.close()


class _Bar:
    """Share done and time left of a run that has lasted a second; gone when it is over."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._began = clock, clock()
        self._bar: Bar | None = None

    def show(self, share: float, text: str) -> None:
        if self._clock() - self._began < _PATIENCE_S:
            return
        if self._bar is None:
            self._bar = _new_bar()
            self._bar.add_task(text, total=1.0)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=share, description=text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _new_bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("left; {task.description}"))
    return Bar(*columns, console=Console(stderr=True), transient=True)


def stop_partial(cut: OutOfTime, known: Mapping[str, Any], json: bool, instead: str, *files: Path | None) -> NoReturn:
    """Print what a run that was cut knows: `known`, and how far it came. Raises OutOfTime that says what to do.

    `instead` is what to ask for besides a larger budget; `files` were asked for and are left as they were.
    """
    if json:
        print_json({**known, "partial": True, "so_far": cut.so_far})
    else:
        from dessim.results.tables import key_value_table, print_table

        print_table(key_value_table("", _readable(cut.so_far)))
    left = [str(file) for file in files if file is not None]
    unwritten = f"; not written: {', '.join(left)}" if left else ""
    raise OutOfTime(f"{cut.line}{unwritten}; raise --time-budget, or {instead}", cut.so_far)


def _readable(so_far: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """`share_done` in per cent, `stages_done` of `stages`, and what else there is."""
    yield "partial result", f"{so_far['share_done']:.1%} done"
    for key, value in so_far.items():
        if f"{key}_done" in so_far and value > 1:
            yield key.replace("_", " "), f"{so_far[f'{key}_done']:,} of {value:,}"
    if "simulated_s" in so_far:
        yield "simulated", format_time(so_far["simulated_s"])
