"""Predicted against measured times: one point per case, with bands of 5 % and 15 %."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dessim.results.rows import Row, require_rows
from dessim.results.style import FAINT, house_style
from dessim.results.svg import finish
from dessim.units import format_time

_COLUMNS = ("name", "kind", "split", "predicted_s", "measured_s", "error")
_BANDS = ((0.15, 0.18), (0.05, 0.32))  # relative error, opacity
_KIND_STYLE = (("#0173b2", "o"), ("#de8f05", "D"), ("#029e73", "^"))


def predicted_against_measured(rows: Sequence[Row], path: Path | None = None) -> str:
    """The figure as SVG text; also written to `path`, with its data as CSV beside it.

    The left panel shows predicted against measured times, the right panel the relative errors, where the bands are
    readable. Rows are those of `dessim.validate.outcome.Outcome.to_json`.
    """
    import seaborn

    sns: Any = seaborn  # has no types
    kinds = list(dict.fromkeys(row["kind"] for row in require_rows(rows)))
    styles = dict(zip(kinds, _KIND_STYLE, strict=False))
    data = {
        "kind": [row["kind"] for row in rows],
        "measured": [row["measured_s"] for row in rows],
        "predicted": [row["predicted_s"] for row in rows],
        "error": [100 * row["error"] for row in rows],
    }
    low = min(*data["measured"], *data["predicted"]) / 1.3
    high = max(*data["measured"], *data["predicted"]) * 1.3
    with house_style() as plt:
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 4.0))
        for axes, y in ((left, "predicted"), (right, "error")):
            sns.scatterplot(
                data,
                x="measured",
                y=y,
                hue="kind",
                style="kind",
                palette={kind: style[0] for kind, style in styles.items()},
                markers={kind: style[1] for kind, style in styles.items()},
                s=22,
                alpha=0.75,
                linewidth=0,
                legend=len(kinds) > 1 and axes is left,
                zorder=3,
                ax=axes,
            )
            axes.set_xscale("log")
            axes.set_xlim(low, high)
            axes.set_xlabel("measured")
            axes.xaxis.set_major_formatter(_seconds)
            for band, opacity in _BANDS:
                if axes is left:
                    lower, upper = [low * (1 - band), high * (1 - band)], [low * (1 + band), high * (1 + band)]
                else:
                    lower, upper = [-100 * band] * 2, [100 * band] * 2
                label = f"±{100 * band:.0f} %"
                axes.fill_between([low, high], lower, upper, color=FAINT, alpha=opacity, lw=0, label=label)
        left.plot([low, high], [low, high], color=FAINT, lw=1)
        left.set_yscale("log")
        left.set_ylim(low, high)
        left.set_ylabel("predicted")
        left.yaxis.set_major_formatter(_seconds)
        left.legend(frameon=False, loc="upper left")
        right.axhline(0, color=FAINT, lw=1)
        right.set_ylabel("error of the prediction (%)")
        return finish(figure, "Predicted against measured", rows, _COLUMNS, path)


def _seconds(value: float, position: int) -> str:
    """The label of a tick of a logarithmic axis; matplotlib passes `position`, which is not needed."""
    return format_time(value)
