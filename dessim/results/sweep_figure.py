"""A figure of a sweep: one column against another, a line for each value of a third, a panel for each of a fourth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dessim.errors import UsageError
from dessim.results.axes import log_axis
from dessim.results.rows import Row, data_csv
from dessim.results.style import house_style, plain_style, style_of
from dessim.results.svg import Plot, plotted
from dessim.units import format_count, format_size, format_time
from dessim.wording import did_you_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_PANELS = 12
_MOST_LINES = 12
_IN_A_ROW = 4
_ABOVE = 1.05  # the height of an axis over the largest number
_WIDE = 8.0  # the ratio of the largest to the smallest number from which an axis is logarithmic
_OTHERS = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9")
_MARKERS = "osD^vPX<>p*h"


@dataclass(frozen=True, slots=True)
class Encoding:
    """The columns that a figure shows: those of its axes, of its lines (`hue`) and of its panels (`facet`), if any."""

    x: str
    y: str
    hue: str | None = None
    facet: str | None = None

    def columns(self) -> list[str]:
        return [column for column in (self.x, self.y, self.hue, self.facet) if column is not None]


def sweep_figure(rows: Sequence[Row], axes: Sequence[str], shown: Encoding, path: Path | None = None) -> Plot:
    """Draw rows with times, also to `path`, with the data as CSV beside it.

    `axes` are the columns that tell rows apart. Raises UsageError for an unknown column, numbers that are texts, and
    rows that would share a point.
    """
    _check(rows, axes, shown)
    panels = _values(rows, shown.facet)
    hues = _values(rows, shown.hue)
    if len(panels) > _MOST_PANELS or len(hues) > _MOST_LINES:
        column, count, most = (
            (shown.facet, len(panels), _MOST_PANELS)
            if len(panels) > _MOST_PANELS
            else (shown.hue, len(hues), _MOST_LINES)
        )
        raise UsageError(f"{column} has {count} values, a figure shows {most}; choose some with --where {column}=VALUE")
    with house_style() as plt:
        in_a_row = min(len(panels), _IN_A_ROW)
        n_rows = -(-len(panels) // in_a_row)
        size = (2.4 + 3.2 * in_a_row, 0.4 + 2.9 * n_rows)
        figure, grid = plt.subplots(n_rows, in_a_row, figsize=size, sharey=True, squeeze=False)
        for drawn, panel in zip(grid.flat, panels, strict=False):
            _panel(drawn, [row for row in rows if shown.facet is None or row[shown.facet] == panel], rows, shown, hues)
            if shown.facet is not None:
                drawn.set_title(f"{shown.facet} = {panel}", loc="left")
        for unused in list(grid.flat)[len(panels) :]:
            unused.set_visible(False)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        if shown.hue is not None:
            figure.legend(handles, labels, loc="outside right upper", frameon=False, title=shown.hue)
        title = f"{shown.y} against {shown.x}"
        data = data_csv(rows, _unique([*axes, *shown.columns()]))
        return plotted(figure, title, data, path, "sweep")


def _check(rows: Sequence[Row], axes: Sequence[str], shown: Encoding) -> None:
    if not rows:
        raise UsageError("no row has times; nothing to draw")
    check_columns(shown, _unique([column for row in rows for column in row]))
    if not all(_is_number(row.get(shown.y, 0)) for row in rows):
        raise UsageError(f"--y {shown.y}: the column has texts; name one of numbers, such as samples_per_s")
    require_apart(rows, axes, shown)


def require_apart(rows: Sequence[Row], axes: Sequence[str], shown: Encoding) -> None:
    """Raise UsageError for rows that would share a point of the figure."""
    at: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        place = tuple(row.get(column) for column in (shown.x, shown.hue, shown.facet) if column is not None)
        other = at.setdefault(place, row)
        if other is not row:
            differ = [column for column in axes if row.get(column) != other.get(column)]
            what = f"{differ[0]} = {other.get(differ[0])} and {row.get(differ[0])}" if differ else "two equal rows"
            advice = f"; add --hue {differ[0]}, --facet {differ[0]} or --where {differ[0]}=VALUE" if differ else ""
            raise UsageError(f"--x {shown.x}: several rows have one point, with {what}{advice}")


def check_columns(shown: Encoding, known: Sequence[str]) -> None:
    """Raise UsageError for a column that is not among the `known` ones."""
    for flag, column in zip(
        ("--x", "--y", "--hue", "--facet"), (shown.x, shown.y, shown.hue, shown.facet), strict=True
    ):
        if column is not None and column not in known:
            hint = did_you_mean(column, known)
            raise UsageError(f"{flag} {column}: no such column; {hint}columns: {', '.join(known)}")


def _panel(drawn: Axes, rows: Sequence[Row], all_rows: Sequence[Row], shown: Encoding, hues: Sequence[Any]) -> None:
    import seaborn

    sns: Any = seaborn  # has no types
    numeric = all(_is_number(row[shown.x]) for row in all_rows)
    rows = sorted(rows, key=lambda row: row[shown.x]) if numeric else rows
    data = {
        shown.x: [row[shown.x] if numeric else str(row[shown.x]) for row in rows],
        shown.y: [row.get(shown.y) for row in rows],
        "line": [_label(shown, row.get(shown.hue) if shown.hue else shown.y) for row in rows],
    }
    labels = [_label(shown, hue) for hue in hues] if shown.hue else [shown.y]
    looks = [_look(shown, i, hue) for i, hue in enumerate(hues)]
    palette = {label: color for label, (color, _) in zip(labels, looks, strict=True)}
    common = {"x": shown.x, "y": shown.y, "hue": "line", "hue_order": labels, "palette": palette, "ax": drawn}
    if numeric:
        markers = {label: marker for label, (_, marker) in zip(labels, looks, strict=True)}
        sns.lineplot(data, **common, style="line", style_order=labels, markers=markers, dashes=False, errorbar=None)
        _scale(drawn, [row[shown.x] for row in all_rows])
    else:
        order = [str(value) for value in _values(all_rows, shown.x)]
        sns.barplot(data, **common, order=order, errorbar=None)
        drawn.tick_params(axis="x", rotation=30 if sum(map(len, order)) > 30 else 0)
    numbers = [row[shown.y] for row in all_rows if shown.y in row]
    if numeric and min(numbers) > 0 and max(numbers) > _WIDE * min(numbers):
        log_axis(drawn, _format(shown.y))
    else:
        from matplotlib.ticker import FuncFormatter

        text = _format(shown.y)
        drawn.set_ylim(min(0, *numbers), _ABOVE * max(0, *numbers) or None)  # of all panels, which share the axis
        drawn.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    if legend := drawn.get_legend():
        legend.remove()


def _scale(drawn: Axes, numbers: Sequence[float]) -> None:
    """Ticks at the numbers; a logarithmic axis for numbers that grow by a factor."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    values = sorted(set(numbers))
    if values[0] > 0 and values[-1] >= _WIDE * values[0]:
        drawn.set_xscale("log", base=2)
    while len(values) > 8:
        values = values[::2]
    drawn.xaxis.set_major_locator(FixedLocator(values))
    drawn.xaxis.set_minor_locator(NullLocator())
    drawn.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _format(column: str) -> Callable[[float], str]:
    if column.endswith("_per_s"):
        return format_count
    if column.endswith("_s"):
        return format_time
    return format_size if "bytes" in column else format_count


def _label(shown: Encoding, value: Any) -> str:
    return style_of(str(value)).label if shown.hue == "strategy" else str(value)


def _look(shown: Encoding, number: int, value: Any) -> tuple[str, str]:
    """The colour and the marker of a line."""
    style = plain_style(str(value))
    if shown.hue == "strategy" and style is not None:
        return style.color, style.marker
    return _OTHERS[number % len(_OTHERS)], _MARKERS[number % len(_MARKERS)]


def _values(rows: Sequence[Mapping[str, Any]], column: str | None) -> list[Any]:
    """The different values of a column in their order; one value for no column."""
    return _unique([row.get(column) for row in rows]) if column is not None else [None]


def _unique(values: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
