"""The figure of a plan at several scales: samples/s against its cost, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dessim.results.axes import gpu_axis, legend_outside, log_axis
from dessim.results.rows import Row, require_rows
from dessim.results.style import FAINT, house_style, style_of
from dessim.results.svg import finish
from dessim.units import format_count


def pareto(scales: Sequence[Row], path: Path | None = None) -> str:
    """The best plan of each number of GPUs with its 80 % interval; a line joins those that no other dominates.

    Rows: scales of `dessim plan --json`. The cost is dollars an hour where prices are known, and GPUs elsewhere.
    """
    priced = all(scale["dollars_per_h"] is not None for scale in require_rows(scales))
    key = "dollars_per_h" if priced else "gpus"
    with house_style() as plt:
        figure, axes = plt.subplots(figsize=(6.4, 3.7))
        front = sorted((s for s in scales if s["on_front"]), key=lambda s: s[key])
        axes.plot([s[key] for s in front], [s["samples_per_s"] for s in front], lw=1, color=FAINT, label="Pareto front")
        axes.margins(x=0.08, y=0.12)
        color = style_of("table_wise").color
        for number, scale in enumerate(scales):
            best = scale["plans"][0]
            interval = best.get("interval")
            ends = [scale["batch"] / interval[end] for end in ("high_s", "low_s")] if interval else []
            mean = scale["samples_per_s"]
            error = [[mean - ends[0]], [ends[1] - mean]] if ends else None
            axes.errorbar(
                [scale[key]],
                [mean],
                error,
                fmt="o",
                ms=6,
                color=color,
                mfc=color if scale["on_front"] else "none",
                capsize=3,
                label="best plan, 80 % interval" if number == 0 else None,
            )
            label = (f"{scale['gpus']:,} GPUs", (scale[key], mean))
            axes.annotate(*label, xytext=(7, -10), textcoords="offset points", size="small")
        log_axis(axes, format_count)
        gpu_axis(axes, [scale[key] for scale in scales], label="cost ($/h)" if priced else "GPUs")
        axes.set_ylabel("throughput (samples/s)")
        legend_outside(axes)
        columns = ("gpus", "dollars_per_h", "samples_per_s", "joules_per_billion", "on_front", "strategy")
        return finish(figure, "Throughput and cost of the best plans", scales, columns, path)
