"""The page of `dessim sweep --html`: every point of a grid, the fastest first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from dessim.results.pages.blocks import Block, Page, Section
from dessim.results.pages.question import Asked
from dessim.results.pages.rows import Value, column_title, rows_page, rows_table
from dessim.results.style import strategy_label
from dessim.results.svg import Plot
from dessim.units import counted, format_count, format_time

Point = Mapping[str, Value]
_OK = "ok"
_WORDS = {_OK: "with times", "does_not_fit": "do not fit", "failed": "failed"}
_SHOWN = (
    *("step_time_s", "low_s", "high_s", "samples_per_s", "compute_s", "exposed_comm_s", "idle_s", "bound_by"),
    *("bytes_per_worker", "memory_bytes"),
)
"""Columns of the page's tables after the axes that vary; the file has all."""


def sweep_page(
    name: str, axes: Sequence[str], rows: Sequence[Point], asked: Asked, plots: Sequence[tuple[Plot, str]] = ()
) -> Page:
    """The page of the rows of a sweep's results; `axes` are their columns that tell points apart."""
    timed = sorted((row for row in rows if row["status"] == _OK), key=lambda row: -_speed(row))
    others = [row for row in rows if row["status"] != _OK]
    varied = [axis for axis in axes if len({row.get(axis) for row in rows}) > 1]
    fastest: dict[Value, Point] = {}
    for row in timed:
        fastest.setdefault(row["gpus"], row)
    first: list[Block] = []
    if len(fastest) > 1:
        best = [fastest[gpus] for gpus in sorted(fastest, key=lambda gpus: float(gpus or 0))]
        first.append(rows_table(_shown(best, varied), "The fastest point at each number of GPUs"))
    page = rows_page(
        f"Sweep {name}",
        f"Which point of the grid is fastest? Axes: {', '.join(map(column_title, varied)) or 'none'}",
        _answer(timed, rows, varied),
        asked=[*asked, *((column_title(axis), str(rows[0].get(axis, "none"))) for axis in axes if axis not in varied)],
        rows=_shown(timed, varied),
        plots=plots,
        first=first,
        data=[*timed, *others],
    )
    if not others:
        return page
    misfits = [{axis: row.get(axis) for axis in (*varied, "status", "reason")} for row in others]
    left = Section("Points without times", [rows_table(misfits, "Points that do not fit, or failed")])
    return Page(page.title, page.question, page.answer, page.asked, [*page.sections[:-1], left, page.sections[-1]])


def _shown(rows: Sequence[Point], varied: Sequence[str]) -> list[Point]:
    return [{key: row.get(key) for key in (*varied, *_SHOWN)} for row in rows]


def _speed(row: Point) -> float:
    return float(row.get("samples_per_s") or 0.0)


def _answer(timed: Sequence[Point], rows: Sequence[Point], varied: Sequence[str]) -> list[str]:
    """Sentences: the fastest point, and how many points have which status."""
    counts = Counter(str(row["status"]) for row in rows)
    said = ", ".join(f"{counts[status]:,} {words}" for status, words in _WORDS.items() if counts[status])
    points = f"{counted(len(rows), 'point')}: {said}."
    if not timed:
        return [f"No point has a time. {points}"]
    best = timed[0]
    where = ", ".join(f"{column_title(axis)} {_text(axis, best.get(axis))}" for axis in varied)
    step = format_time(float(best["step_time_s"] or 0), 3)
    speed = f"{format_count(_speed(best), 3)} samples/s with steps of {step}"
    return [f"The fastest point{f', {where},' if where else ''} trains {speed}.", points]


def _text(axis: str, value: Value) -> str:
    if axis == "strategy":
        return strategy_label(str(value))
    return f"{value:,}" if isinstance(value, int) else str(value)
