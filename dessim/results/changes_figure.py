"""The figure of two runs compared: how much longer each step takes, by part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dessim.results.axes import time_unit
from dessim.results.rows import Row, require_rows
from dessim.results.style import INK, PART_STYLE, house_style
from dessim.results.svg import Plot, finish
from dessim.units import percent

_PARTS = ("compute_s", "exposed_comm_s", "idle_s")
_MOST_BARS = 16


def changes(rows: Sequence[Row], path: Path | None = None) -> Plot:
    """The change of each step [s] by part, those that changed most if there are more than 16.

    Rows: `gpus`, `strategy`, `label`, `before_s`, `now_s`, and the change of each part.
    """
    most = sorted(require_rows(rows), key=lambda row: -abs(row["now_s"] / row["before_s"] - 1))[:_MOST_BARS]
    shown = [row for row in rows if any(row is kept for kept in most)]
    unit, factor = time_unit(max(abs(row[part]) for row in shown for part in _PARTS))
    with house_style() as plt:
        figure, axes = plt.subplots(figsize=(7.4, 0.9 + 0.34 * len(shown)))
        places = range(len(shown))
        ends = [[0.0, 0.0] for _ in shown]  # of the bars to the left and to the right
        for part in _PARTS:
            name, color, hatch = PART_STYLE[part]
            widths = [row[part] * factor for row in shown]
            starts = [end[width > 0] for end, width in zip(ends, widths, strict=True)]
            axes.barh(
                places, widths, left=starts, height=0.62, color=color, hatch=hatch, ec="white", lw=0.4, label=name
            )
            for end, width in zip(ends, widths, strict=True):
                end[width > 0] += width
        for place, row, (_, right) in zip(places, shown, ends, strict=True):
            text = percent(row["now_s"] / row["before_s"] - 1, signed=True)
            axes.annotate(text, (right, place), xytext=(4, 0), textcoords="offset points", va="center", size="small")
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_yticks(places, [row["label"] for row in shown])
        axes.invert_yaxis()
        low = min(end[0] for end in ends)
        high = max(end[1] for end in ends)
        axes.set_xlim(low - 0.05 * (high - low), high + 0.14 * (high - low))
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"change of the step ({unit})")
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        return finish(figure, "Change of each step by part", rows, ("before_s", "now_s", *_PARTS), path)
