"""Predicted against measured times: one point per case, with bands of 5 % and 15 %."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dessim.results.rows import Row, require_rows
from dessim.results.style import FAINT, house_style
from dessim.results.svg import Plot, finish
from dessim.units import format_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("name", "kind", "split", "predicted_s", "measured_s", "error")
_BANDS = ((0.15, 0.18), (0.05, 0.32))  # relative error, opacity
_KIND_STYLE = (("#0173b2", "o"), ("#de8f05", "D"), ("#029e73", "^"))


def predicted_against_measured(rows: Sequence[Row], path: Path | None = None) -> Plot:
    """The figure as SVG text; also written to `path`, with its data as CSV beside it.

    The left panel shows predicted against measured times, the right panel the relative errors, where the bands are
    readable. Rows are those of `dessim.validate.outcome.Outcome.to_json`.
    """
    kinds = list(dict.fromkeys(row["kind"] for row in require_rows(rows)))
    times = [row[key] for row in rows for key in ("measured_s", "predicted_s")]
    limits = min(times) / 1.3, max(times) * 1.3
    with house_style() as plt:
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 4.0))
        _points(left, rows, kinds, "predicted_s", has_legend=len(kinds) > 1)
        _points(right, rows, kinds, "error_percent", has_legend=False)
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xlim(limits)
            axes.set_xlabel("measured")
            axes.xaxis.set_major_formatter(_seconds)
        for band, opacity in _BANDS:
            style = {"color": FAINT, "alpha": opacity, "lw": 0, "label": f"±{100 * band:.0f} %"}
            left.fill_between(limits, [x * (1 - band) for x in limits], [x * (1 + band) for x in limits], **style)
            right.fill_between(limits, [-100 * band] * 2, [100 * band] * 2, **style)
        left.plot(limits, limits, color=FAINT, lw=1)
        left.set_yscale("log")
        left.set_ylim(limits)
        left.set_ylabel("predicted")
        left.yaxis.set_major_formatter(_seconds)
        left.legend(frameon=False, loc="upper left")
        right.axhline(0, color=FAINT, lw=1)
        right.set_ylabel("error of the prediction (%)")
        return finish(figure, "Predicted against measured", rows, _COLUMNS, path)


def _points(axes: Axes, rows: Sequence[Row], kinds: Sequence[str], y: str, has_legend: bool) -> None:
    """One point per case over its measured time; colour and marker show its kind."""
    import seaborn

    sns: Any = seaborn  # has no types
    data = {
        "kind": [row["kind"] for row in rows],
        "measured_s": [row["measured_s"] for row in rows],
        "predicted_s": [row["predicted_s"] for row in rows],
        "error_percent": [100 * row["error"] for row in rows],
    }
    styles = dict(zip(kinds, _KIND_STYLE, strict=False))
    sns.scatterplot(
        data,
        x="measured_s",
        y=y,
        hue="kind",
        style="kind",
        palette={kind: color for kind, (color, _) in styles.items()},
        markers={kind: marker for kind, (_, marker) in styles.items()},
        s=22,
        alpha=0.75,
        linewidth=0,
        legend=has_legend,
        zorder=3,
        ax=axes,
    )


def _seconds(value: float, position: int) -> str:
    """The label of a tick of a logarithmic axis; matplotlib passes `position`, which is not needed."""
    return format_time(value)
