"""`dessim sweep`: one question for every point of a grid, in processes, on a Dask cluster, or in an array of jobs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dessim.cli.options import FigureOption, HtmlOption, JsonOption
from dessim.cli.output import command_line, guarded, print_json, to_fill
from dessim.cli.progress import TimeBudgetOption, showing_progress
from dessim.errors import DessimError, OutOfTime, UsageError
from dessim.processes import INTERRUPTED
from dessim.units import counted

if TYPE_CHECKING:
    from dessim.sweep.run import Done, Plan

_LINE_INTERVAL_S = 30.0
_MOST_LINES = 20
_AGAIN = "run the same command again to continue"


@guarded
def sweep(
    context: typer.Context,
    study: Annotated[
        Path, typer.Argument(help="Study file; or, with --figure, the folder of a finished sweep.", show_default=False)
    ],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", callback=to_fill, help="Folder of journals and results.  [default: STUDY.sweep]"),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes on this machine.", min=1, max=4096)] = 1,
    dask: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, such as tcp://head:8786; its workers simulate.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="I/N: only part I, from 1, of N, as in the jobs of an array; all use one folder.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Simulate nothing; write the results of what the journals have.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all inputs and print the number of cases; simulate nothing.")
    ] = False,
    time_budget: TimeBudgetOption = None,
    figure: FigureOption = None,
    x: Annotated[str, typer.Option(help="Column of the figure's horizontal axis.")] = "gpus",
    y: Annotated[str, typer.Option(help="Column of its vertical axis.")] = "samples_per_s",
    hue: Annotated[str | None, typer.Option(help="Column with a line for each value, such as strategy.")] = None,
    facet: Annotated[str | None, typer.Option(help="Column with a panel for each value, such as cluster.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE: draw only these rows; may be repeated.")
    ] = None,
    html: HtmlOption = None,
    json: JsonOption = False,
) -> None:
    """Project every point of a grid: docs/sweeps.md.

    An interrupted sweep continues when it is run again. Exit codes: 0 done, or this shard is; 1 a wrong study
    file, cases that failed twice, a full disk, or --time-budget; 2 a wrong option; 130 interrupted.
    """
    if dask is not None and jobs > 1:
        raise UsageError("--dask and --jobs: Dask's workers simulate; leave --jobs out")
    if figure is None and html is None and (hue or facet or where):
        raise UsageError("--hue, --facet and --where are for --figure NAME.svg and --html FILE")
    shown = _Shown(figure, html, (x, y, hue, facet), where or [], command_line(context))
    if study.is_dir():
        if figure is None and html is None:
            raise UsageError(f"{study} is a folder; name a study file, or add --figure NAME.svg to draw its results")
        files = shown.write(study)
        if json:
            print_json({"folder": str(study), "files": [str(file) for file in files]})
        else:
            _list(files)
        return
    from dessim.sweep.run import conclude, plan_sweep, run_sweep
    from dessim.sweep.tables import axis_columns, columns_of, labels_of

    folder = Path(out) if out is not None else Path(f"{study.stem}.sweep")
    plan = plan_sweep(study, folder, _shard(shard))
    axes = axis_columns(plan.study)
    shown.check(list(axes.values()), columns_of(plan.study), [labels_of(row, axes) for row in plan.rows])
    if not json:
        print(_sizes(plan), flush=True)
    if dry_run:
        if json:
            print_json(_counted(plan))
        return
    lines = _Lines(len(plan.left))
    try:
        if merge:
            done = conclude(plan)
        else:
            with showing_progress(time_budget) as progress:
                done = run_sweep(plan, jobs, dask, progress, lines.add)
    except KeyboardInterrupt:
        print(f"dessim: interrupted with {counted(lines.left, 'case')} left; {_AGAIN}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except OutOfTime as cut:
        raise OutOfTime(f"{cut.line}; {_AGAIN}", cut.so_far) from None
    if json:
        _print_json(plan, done, [] if done.missing else shown.write(folder))
    else:
        _report(plan, done)
    if merge and done.missing:
        raise DessimError(f"{_cases(done.missing)} no result yet; run the shards that are left, then --merge again")
    if not json and not done.missing:
        _list(shown.write(folder))
    if done.failed:
        raise DessimError(
            f"{len(done.failed):,} of {len(plan.cases):,} cases failed twice; results.csv has their reasons, and "
            "the same command tries them again"
        )


def _shard(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() and 0 < len(part) < 7 for part in parts):
        raise UsageError(f"--shard {text!r}: write I/N with I from 1 to N, such as 1/3")
    return int(parts[0]), int(parts[1])


def _sizes(plan: Plan) -> str:
    number, of = plan.shard
    cases = f" ({counted(len(plan.cases), 'different case')})" if len(plan.cases) != len(plan.rows) else ""
    part = f" in shard {number}/{of}" if of > 1 else ""
    return f"{plan.study.name}: {counted(len(plan.rows), 'point')}{cases}; to simulate{part}: {len(plan.left):,}"


def _counted(plan: Plan) -> dict[str, Any]:
    return {
        "study": plan.study.name,
        "points": len(plan.rows),
        "cases": len(plan.cases),
        "to_simulate": len(plan.left),
        "folder": str(plan.folder),
    }


def _print_json(plan: Plan, done: Done, shown: Sequence[Path]) -> None:
    """Print the result. `shown` are the figure and the page."""
    _print_failed(done)
    failed = [{"point": point, "reason": reason} for point, reason in done.failed]
    files = [str(file) for file in (*done.files, *shown)]
    counts = {"by_status": done.counts, "missing": done.missing, "failed": failed, "files": files}
    print_json({**_counted(plan), "to_simulate": done.missing, **counts})


def _report(plan: Plan, done: Done) -> None:
    from dessim.results.show_sweep import print_fastest
    from dessim.sweep.tables import is_ok, read_results

    _print_failed(done)
    listed = ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in sorted(done.counts.items()))
    print(listed or "no case has a result")
    if done.missing:
        print(f"{_cases(done.missing)} no result yet; the last shard writes the tables")
    if done.files:
        axes, rows, _ = read_results(plan.folder)
        print_fastest(axes, [row for row in rows if is_ok(row)])
    _list(done.files)
    if done.files and not any(file.suffix == ".parquet" for file in done.files):
        print("for results.parquet: pip install 'dessim[sweep]', then run the same command again", file=sys.stderr)


def _cases(missing: int) -> str:
    return f"{counted(missing, 'case')} {'has' if missing == 1 else 'have'}"


def _print_failed(done: Done) -> None:
    for point, reason in done.failed[:_MOST_LINES]:
        print(f"dessim: failed: {point}: {reason}", file=sys.stderr)
    if len(done.failed) > _MOST_LINES:
        print(f"dessim: failed: {len(done.failed) - _MOST_LINES:,} more", file=sys.stderr)


def _list(files: Iterable[Path]) -> None:
    for file in files:
        print(file)


@dataclass(frozen=True, slots=True)
class _Shown:
    """A figure and a page of results, if asked for. `columns`: x, y, hue and facet; `where`: COLUMN=VALUE."""

    figure: Path | None
    html: Path | None
    columns: tuple[str, str, str | None, str | None]
    where: Sequence[str]
    command: str

    def check(self, axes: Sequence[str], columns: Sequence[str], points: Sequence[dict[str, Any]]) -> None:
        """Raise UsageError for columns that the results of a study will not have, and for a figure in which `points`,
        which have the values of the `axes`, would coincide.
        """
        from dessim.results.sweep_figure import Encoding, check_columns, require_apart

        if self.figure is not None:
            check_columns(Encoding(*self.columns), columns)
        for condition in self.where:
            column, value = _condition(condition, axes)
            points = [point for point in points if str(point[column]) == value]
        x, _, hue, facet = self.columns
        if self.figure is not None and {x, hue, facet} - {None} <= set(axes):
            require_apart(points, axes, Encoding(*self.columns))

    def write(self, folder: Path) -> list[Path]:
        """Write what was asked for of a folder's results, and return the files."""
        if self.figure is None and self.html is None:
            return []
        from dessim.results.pages.render import write_page
        from dessim.results.pages.sweep import sweep_page
        from dessim.results.sweep_figure import Encoding, sweep_figure
        from dessim.sweep.tables import is_ok, read_results

        axes, rows, _ = read_results(folder)
        for condition in self.where:
            column, value = _condition(condition, axes)
            rows = [row for row in rows if str(row.get(column, "")) == value]
            if not rows:
                raise UsageError(f"--where {condition!r}: no row has it")
        plots = []
        if self.figure is not None:
            plot = sweep_figure([row for row in rows if is_ok(row)], axes, Encoding(*self.columns), self.figure)
            plots.append((plot, f"{self.columns[1]} against {self.columns[0]}."))
        if self.html is not None:
            write_page(self.html, sweep_page(folder.name, axes, rows, [("command", self.command)], plots))
        return [file for file in (self.figure, self.html) if file is not None]


def _condition(text: str, axes: Sequence[str]) -> tuple[str, str]:
    """The column and the value of COLUMN=VALUE. Raises UsageError."""
    column, equals, value = text.partition("=")
    if not equals or column not in axes:
        raise UsageError(f"--where {text!r}: write COLUMN=VALUE with one of {', '.join(axes)}")
    return column, value


class _Lines:
    """The count of cases and the time left, as lines of a log: where stderr is no terminal, as in an array job."""

    def __init__(self, cases: int) -> None:
        self._cases = cases
        self.left = cases
        self._began = time.monotonic()
        self._shown = self._began
        self._is_terminal = sys.stderr.isatty()

    def add(self, key: str, outcome: object) -> None:
        """One more case is done."""
        from dessim.units import format_duration

        self.left -= 1
        now = time.monotonic()
        if self._is_terminal or now - self._shown < _LINE_INTERVAL_S:
            return
        self._shown = now
        done = self._cases - self.left
        left_s = (now - self._began) / done * self.left
        line = f"dessim: {done:,} of {self._cases:,} cases; about {format_duration(left_s, 2)} left"
        print(line, file=sys.stderr, flush=True)
