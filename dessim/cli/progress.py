"""Long runs on the command line: a bar with the time left, and a partial result once `--time-budget` is spent."""

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
    from rich.progress import Progress as RichProgress

TimeBudgetOption = Annotated[
    str | None,
    typer.Option("--time-budget", help="Stop after this time, such as 30s or 10min, with a partial result."),
]

_DELAY_S = 1.0  # shorter runs show no bar
_MAX_BAR_WIDTH = 24
_TIMES_WIDTH = 22  # " 100% 0:00:00 left; ", and a column to spare for runs of ten hours


@contextmanager
def showing_progress(time_budget: str | None, clock: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
    """A progress that stops the run after `--time-budget`, and draws a bar if stderr is a terminal.

    Raises UsageError if the budget is not a time.
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
    """The share done and the time left of a run; it appears after a second and disappears at the end."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._bar: RichProgress | None = None

    def show(self, share: float, text: str) -> None:
        if self._clock() - self._began < _DELAY_S:
            return
        if self._bar is None:
            self._bar = _new_bar()
            self._bar.add_task("", total=1.0)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=share, description=_fitting(text, self._bar.console.width))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _new_bar() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    console = Console(stderr=True)
    columns = (
        BarColumn(bar_width=_bar_width(console.width)),
        TaskProgressColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("left{task.description}", table_column=Column(no_wrap=True)),
    )
    return RichProgress(*columns, console=console, transient=True)


def _bar_width(width: int) -> int:
    return max(min(_MAX_BAR_WIDTH, width // 3), 1)


def _fitting(text: str, width: int) -> str:
    """`text` as it follows "left", cut to the room that the bar and the times leave of `width` columns."""
    room = width - _bar_width(width) - _TIMES_WIDTH
    if len(text) > room:
        text = text[: room - 1] + "…" if room > 1 else ""
    return f"; {text}" if text else ""


def stop_partial(cut: OutOfTime, known: Mapping[str, Any], json: bool, instead: str, *files: Path | None) -> NoReturn:
    """Print the partial result `known` and how far the run got. Raises OutOfTime, which says what to do.

    `instead` is the alternative to a larger budget. `files` are output files that are not written.
    """
    if json:
        print_json({**known, "partial": True, "so_far": cut.so_far})
    else:
        from dessim.results.tables import key_value_table, print_table

        print_table(key_value_table(_readable(cut.so_far)))
    left = [str(file) for file in files if file is not None]
    unwritten = f"; not written: {', '.join(left)}" if left else ""
    raise OutOfTime(f"{cut.line}{unwritten}; raise --time-budget, or {instead}", cut.so_far)


def _readable(so_far: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Names and values: `share_done` in per cent, `stages_done` of `stages`, and so on."""
    yield "partial result", f"{so_far['share_done']:.1%} done"
    for key, value in so_far.items():
        if f"{key}_done" in so_far and value > 1:
            yield key.replace("_", " "), f"{so_far[f'{key}_done']:,} of {value:,}"
    if "simulated_s" in so_far:
        yield "simulated", format_time(so_far["simulated_s"])
