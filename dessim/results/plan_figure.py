"""Figures of plans: samples/s against cost with the Pareto front, and the load and memory of each rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dessim.results.axes import evenly_spaced, gpu_axis, legend_outside, log_axis, size_unit, time_unit
from dessim.results.rows import Row, require_rows
from dessim.results.style import FAINT, INK, house_style, style_of
from dessim.results.svg import Plot, finish
from dessim.units import format_count, format_size, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_BARS = 512
_APART = 64
"""Up to this many bars stand apart from one another."""
_LOADS = ("compute_s", "sent_bytes", "received_bytes", "memory_bytes")


def plan_figures(scales: Sequence[Row], chosen: Row, path: Path) -> None:
    """The load of each rank of the chosen scale; with several scales the front, and the loads in NAME-ranks.svg."""
    if len(scales) > 1:
        pareto(scales, path)
        path = path.with_name(f"{path.stem}-ranks{path.suffix}")
    ranks(chosen["by_rank"], path)


def ranks(loads: Row, path: Path | None = None) -> Plot:
    """Compute, bytes and memory of each rank, and their means, dashed. `loads`: `by_rank` of a scale.

    Of more than 512 ranks as many are drawn, evenly spaced by their load, the most loaded first.
    """
    count = len(loads["compute_s"])
    unit, factor = time_unit(max(loads["compute_s"]))
    with house_style() as plt:
        figure, (compute, sent, memory) = plt.subplots(3, 1, figsize=(7.4, 5.4), sharex=True)
        busiest = f"busiest {_over_mean(loads['compute_s'])}"
        _bars(compute, [value * factor for value in loads["compute_s"]], "#5f7d95", f"compute ({unit}): {busiest}")
        most = max(max(loads["sent_bytes"]), max(loads["received_bytes"]))
        unit, factor = size_unit(most)
        moved = [max(pair) * factor for pair in zip(loads["sent_bytes"], loads["received_bytes"], strict=True)]
        _bars(sent, moved, "#e0685c", f"sent or received, the larger ({unit}): most {_over_mean(moved)}")
        unit, factor = size_unit(max(loads["memory_bytes"]))
        share = percent(max(loads["memory_bytes"]) / loads["capacity_bytes"])
        full = f"fullest {share} of {format_size(loads['capacity_bytes'], 3)}"
        _bars(memory, [value * factor for value in loads["memory_bytes"]], "#029e73", f"memory ({unit}): {full}")
        memory.set_xlabel("rank" if count <= _MOST_BARS else f"{count:,} ranks, {_MOST_BARS} shown, most loaded first")
        memory.xaxis.get_major_locator().set_params(integer=True)
        rows = [{"rank": rank, **{name: loads[name][rank] for name in _LOADS}} for rank in range(count)]
        return finish(figure, "Load and memory of each rank", rows, ("rank", *_LOADS), path)


def _over_mean(values: Sequence[float]) -> str:
    return f"{max(values) * len(values) / (sum(values) or 1.0):.3g} times the mean"


def _bars(axes: Axes, values: Sequence[float], color: str, title: str) -> None:
    mean = sum(values) / len(values)
    if len(values) > _MOST_BARS:
        values = [sorted(values, reverse=True)[i] for i in evenly_spaced(range(len(values)), _MOST_BARS)]
    if len(values) <= _APART:
        axes.bar(range(len(values)), values, color=color, lw=0)
    else:
        axes.stairs(values, [rank - 0.5 for rank in range(len(values) + 1)], fill=True, color=color, lw=0)
    axes.axhline(mean, ls=(0, (4, 3)), lw=1, color=INK)
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.locator_params(axis="y", nbins=4)
    axes.set_title(title, loc="left")


def pareto(scales: Sequence[Row], path: Path | None = None) -> Plot:
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
