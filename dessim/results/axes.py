"""Parts of figures: a line or a bar per strategy, axes labelled with plain numbers, legends outside the axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dessim.results.rows import Row
from dessim.results.style import INK, PART_STYLE, strategy_label, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def strategy_lines(axes: Axes, rows: Sequence[Row], key: str) -> None:
    """Draw one line per strategy, in the order of the rows."""
    import seaborn

    sns: Any = seaborn  # has no types
    order = list(dict.fromkeys(r["strategy"] for r in rows))
    styles = [style_of(name) for name in order]
    data = {
        "gpus": [r["gpus"] for r in rows],
        "strategy": [strategy_label(r["strategy"]) for r in rows],
        key: [r[key] for r in rows],
    }
    sns.lineplot(
        data,
        x="gpus",
        y=key,
        hue="strategy",
        style="strategy",
        hue_order=[s.label for s in styles],
        style_order=[s.label for s in styles],
        palette={s.label: s.color for s in styles},
        markers={s.label: s.marker for s in styles},
        dashes={s.label: s.dash or "" for s in styles},
        markersize=6.5,
        linewidth=1.6,
        errorbar=None,
        ax=axes,
    )


def bar_label(row: Row) -> str:
    """The label of a row's bar: its own, or the words for its strategy."""
    return row.get("label") or strategy_label(row["strategy"])


def stacked_bars(
    axes: Axes,
    rows: Sequence[Row],
    parts: Sequence[str],
    totals: Sequence[str],
    whiskers: Sequence[tuple[float, float] | None] = (),
) -> None:
    """Draw a horizontal stacked bar per row, the first on top; `totals` [n_rows] are the texts at their ends.

    `whiskers` [n_rows] are the ends of the total's interval, None where it is not known.
    """
    labels = [bar_label(r) for r in rows]
    left = [0.0] * len(rows)
    for part in parts:
        name, color, hatch = PART_STYLE[part]
        widths = [float(r.get(part, 0.0)) for r in rows]
        axes.barh(
            labels, widths, left=left, height=0.68, color=color, hatch=hatch, edgecolor="white", lw=0.4, label=name
        )
        left = [a + b for a, b in zip(left, widths, strict=True)]
    ends = list(left)
    for i, whisker in enumerate(whiskers):
        if whisker is not None:
            axes.errorbar(
                [left[i]],
                [labels[i]],
                xerr=[[left[i] - whisker[0]], [whisker[1] - left[i]]],
                fmt="none",
                ecolor=INK,
                elinewidth=0.9,
                capsize=2.5,
            )
            ends[i] = max(left[i], whisker[1])
    for label, end, text in zip(labels, ends, totals, strict=True):
        axes.annotate(text, (end, label), xytext=(4, 0), textcoords="offset points", va="center", size="small")
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def gpu_axis(axes: Axes, scales: Sequence[int], max_ticks: int = 8, label: str = "GPUs") -> None:
    """Make the x axis logarithmic (base 2), with ticks at no more than `max_ticks` of the scales."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(evenly_spaced(scales, max_ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel(label)


def log_axis(axes: Axes, text: Callable[[float], str]) -> None:
    """Make the y axis logarithmic, with labels written by `text` in place of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    labels = FuncFormatter(lambda value, _: text(value))
    axes.yaxis.set_major_formatter(labels)
    has_few_decades = high < 30 * low  # then label multiples of 2 and 5 as well
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if has_few_decades else range(2, 10)))
    axes.yaxis.set_minor_formatter(labels if has_few_decades else NullFormatter())


def legend_outside(axes: Axes) -> None:
    """Put the legend to the right of the axes."""
    handles, labels = axes.get_legend_handles_labels()
    if legend := axes.get_legend():
        legend.remove()
    if handles:
        axes.legend(handles, labels, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def legend_below(axes: Axes) -> None:
    """Put the legend below the axes, in two columns."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.19), ncols=2, frameon=False, handlelength=2)


def evenly_spaced(values: Sequence[int], at_most: int) -> list[int]:
    """Up to `at_most` of the values, evenly spaced by position, always with the first and the last."""
    if len(values) <= at_most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (at_most - 1))] for i in range(at_most)]


def time_unit(seconds: float) -> tuple[str, float]:
    """The largest unit in which `seconds` is at least 1, and the factor from seconds to it."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return unit, factor
    return "ns", 1e9


def size_unit(size: float) -> tuple[str, float]:
    """The largest unit in which `size` bytes are at least 1, and the factor from bytes to it."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size >= 1024**power:
            return unit, 1024.0**-power
    return "B", 1.0
