"""Figures of a projection, a replay and a training, in the house style.

Every function takes rows of result.json and returns SVG text for pasting into a page: the background is transparent,
the ink has the page's own text colour (light or dark), and no two figures share an id. With `path` it also writes that
file (on white, for papers and READMEs) and its data as CSV beside it. The same data gives the same bytes. Raises
ValueError if there is no data.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dessim.results.axes import (
    bar_label,
    evenly_spaced,
    gpu_axis,
    legend_below,
    legend_outside,
    log_axis,
    stacked_bars,
    strategy_lines,
    time_unit,
)
from dessim.results.labels import link_pair
from dessim.results.rows import Row, contenders, require_rows
from dessim.results.style import FAINT, INK, LINK_COLORS, house_style
from dessim.results.svg import Plot, finish
from dessim.units import counted, format_count, format_size, format_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TRAFFIC = ("sparse", "ids", "dense", "control")
_STEP_PARTS = ("compute_s", "exposed_comm_s", "idle_s")
_MAX_PANELS = 4


def throughput(rows: Sequence[Row], path: Path | None = None) -> Plot:
    """Samples/s against GPUs, a line per strategy; dotted: linear scaling of the fastest one at the smallest scale."""
    with house_style() as plt:
        figure, axes = plt.subplots(figsize=(6.4, 3.7))
        first = min(r["gpus"] for r in require_rows(rows))
        at_first = [r for r in rows if r["gpus"] == first]
        start = max(r["samples_per_s"] for r in contenders(at_first) or at_first)
        scales = sorted({r["gpus"] for r in rows})
        axes.plot(scales, [start * g / first for g in scales], ls=(0, (2, 2)), lw=1, color=FAINT, label="linear")
        strategy_lines(axes, rows, "samples_per_s")
        gpu_axis(axes, scales)
        log_axis(axes, format_count)
        axes.set_ylabel("throughput (samples/s)")
        legend_outside(axes)
        return finish(figure, "Throughput against number of GPUs", rows, ("samples_per_s",), path)


def bytes_per_worker(rows: Sequence[Row], path: Path | None = None) -> Plot:
    """Bytes a worker sends in a step: against GPUs, and their shares by traffic at the largest scale."""
    with house_style() as plt:
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.7), width_ratios=(1.0, 1.0))
        scales = sorted({r["gpus"] for r in require_rows(rows)})
        mib = [{**r, "mib": r["bytes_per_worker"] / 2**20} for r in rows]
        strategy_lines(left, mib, "mib")
        gpu_axis(left, scales)
        log_axis(left, "{:,g}".format)
        left.set_ylabel("sent by a worker in a step (MiB)")
        legend_below(left)
        largest = [r for r in rows if r["gpus"] == scales[-1]]
        stacked_bars(
            right,
            [_traffic_shares(r) for r in largest],
            _TRAFFIC,
            [format_size(r["bytes_per_worker"], 3) for r in largest],
        )
        right.set(xlabel="share of the bytes (%)", xlim=(0, 118), xticks=(0, 25, 50, 75, 100))
        right.set_title(f"at {scales[-1]:,} GPUs", loc="left")
        legend_below(right)
        columns = ("bytes_per_worker",)
        return finish(figure, "Bytes a worker sends in a step", rows, columns, path, nested=("bytes_by_traffic",))


def _traffic_shares(row: Row) -> dict[str, Any]:
    total = sum(row["bytes_by_traffic"].values()) or 1.0
    return {"strategy": row["strategy"], **{k: 100 * v / total for k, v in row["bytes_by_traffic"].items()}}


def step_breakdown(rows: Sequence[Row], path: Path | None = None, noun: str = "GPU") -> Plot:
    """Compute, exposed communication and idle time of a step, with its 80 % interval where rows have one.

    There is one panel for each scale (at most four), which counts its `noun`s. A row's `label` stands for its strategy.
    """
    scales = evenly_spaced(sorted({r["gpus"] for r in require_rows(rows)}), _MAX_PANELS)
    with house_style() as plt:
        names = list(dict.fromkeys(map(bar_label, rows)))
        n_columns = min(2, len(scales))
        n_rows = -(-len(scales) // n_columns)
        height = 0.55 + n_rows * (0.75 + 0.27 * len(names))
        figure, grid = plt.subplots(n_rows, n_columns, figsize=(4.6 * n_columns, height), sharey=True, squeeze=False)
        panels = list(grid.flat)
        for axes, gpus in itertools.zip_longest(panels, scales):
            if gpus is None:
                axes.set_visible(False)
                continue
            at_scale = sorted((r for r in rows if r["gpus"] == gpus), key=lambda r: names.index(bar_label(r)))
            _breakdown_panel(axes, at_scale)
            axes.set_title(counted(gpus, noun), loc="left")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        return finish(figure, "Where the time of a step goes", rows, ("step_time_s", *_STEP_PARTS), path)


def _breakdown_panel(axes: Axes, rows: Sequence[Row]) -> None:
    unit, factor = time_unit(max(r["step_time_s"] for r in rows))
    scaled = [{"label": bar_label(r), **{part: r[part] * factor for part in _STEP_PARTS}} for r in rows]
    whiskers = [
        (interval["low_s"] * factor, interval["high_s"] * factor) if (interval := r.get("interval")) else None
        for r in rows
    ]
    stacked_bars(axes, scaled, _STEP_PARTS, [format_time(r["step_time_s"], 3) for r in rows], whiskers)
    ends = [sum(r[part] for part in _STEP_PARTS) for r in scaled]
    axes.set_xlim(0, 1.24 * max([*ends, *(ends[1] for ends in whiskers if ends)]))
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel(f"time of a step ({unit})")


def predicted_vs_measured(steps: Sequence[Row], path: Path | None = None) -> Plot:
    """Measured and predicted time of each step. Rows: `step`, `measured_s`, `predicted_s` (either may be None) [s]."""
    values = [s[k] for s in require_rows(steps) for k in ("measured_s", "predicted_s") if s.get(k) is not None]
    unit, factor = time_unit(max(values, default=1.0))
    with house_style() as plt:
        figure, axes = plt.subplots(figsize=(6.4, 2.9))
        for key, label, color, marker in (
            ("measured_s", "measured", INK, "o"),
            ("predicted_s", "predicted", "#d55e00", "_"),
        ):
            points = [(s["step"], s[key] * factor) for s in steps if s.get(key) is not None]
            if points:
                x, y = zip(*points, strict=True)
                axes.plot(x, y, ls="", ms=6, marker=marker, mfc="none", mec=color, mew=1.6, label=label)
        axes.set(xlabel="step", ylabel=f"time of the step ({unit})", ylim=(0, 1.15 * factor * max(values, default=1.0)))
        axes.xaxis.get_major_locator().set_params(integer=True)
        legend_outside(axes)
        data = [
            {"step": s["step"], "measured_s": s.get("measured_s"), "predicted_s": s.get("predicted_s")} for s in steps
        ]
        return finish(
            figure, "Time of a step, predicted and measured", data, ("step", "measured_s", "predicted_s"), path
        )


def utilisation(used: Mapping[str, Any], path: Path | None = None, title: str = "Utilisation of links") -> Plot:
    """Share of each link class's capacity in use over time; the two directions of a link share a panel.

    `used` is `utilisation` of a breakdown's JSON: `time_s` [n + 1], and `share` [n] of each class.
    """
    time = used["time_s"]
    shares = used["share"]
    if not shares:
        raise ValueError("a figure of links needs at least one that carried bytes")
    panels: dict[str, list[str]] = {}
    for link_class in shares:
        panels.setdefault(link_pair(link_class)[0], []).append(link_class)
    unit, factor = time_unit(time[-1] - time[0])
    edges = [(t - time[0]) * factor for t in time]
    with house_style() as plt:
        height = 0.75 + 0.62 * len(panels)
        figure, grid = plt.subplots(len(panels), 1, figsize=(6.9, height), sharex=True, squeeze=False)
        legend: dict[str, Any] = {}  # each direction once
        for axes, (name, classes) in zip(grid.flat, panels.items(), strict=True):
            for link_class, color, is_filled in zip(classes, LINK_COLORS, (True, False), strict=False):
                percents = [100 * share for share in shares[link_class]]
                direction = link_pair(link_class)[1]
                drawn = axes.stairs(percents, edges, fill=is_filled, color=color, lw=1.1, label=direction)
                if direction:
                    legend[direction] = drawn
            axes.set(ylim=(0, 105), yticks=(0, 50, 100), xlim=(edges[0], edges[-1]))
            axes.set_ylabel(name, rotation=0, ha="right", va="center")
        grid.flat[-1].set_xlabel(f"time ({unit})")
        grid.flat[0].set_title("% of capacity", loc="left")
        if legend:
            figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=len(legend), frameon=False)
        rows = [
            {"from_s": start, "to_s": end, "links": link_class, "share": share}
            for link_class, values in shares.items()
            for start, end, share in zip(time, time[1:], values, strict=False)
        ]
        return finish(figure, title, rows, ("from_s", "to_s", "links", "share"), path)
