"""Figures, in one house style.

Every function takes plain dicts (the rows of result.json) and returns SVG text fit for pasting into a page: background
transparent, ink in the page's own text colour (light or dark), ids that no other figure uses. With `path` it also
writes that file (on white, for papers and READMEs) and the data it shows as CSV beside it. Same data, same bytes; no
data is a ValueError.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dessim.results.axes import gpu_axis, legend_below, legend_outside, lines, log_axis, spread, stacked, time_unit
from dessim.results.rows import Row, some
from dessim.results.style import FAINT, INK, LINK_COLORS, house_style
from dessim.results.svg import finish
from dessim.units import format_count, format_size, format_time


def throughput(rows: Sequence[Row], path: Path | None = None) -> str:
    """Samples a second against GPUs, one line a strategy, and what linear scaling of the best start would give."""
    with house_style() as plt:
        figure, axes = plt.subplots(figsize=(6.4, 3.7))
        first = min(r["gpus"] for r in some(rows))
        start = max(r["samples_per_s"] for r in rows if r["gpus"] == first)
        scales = sorted({r["gpus"] for r in rows})
        axes.plot(scales, [start * g / first for g in scales], ls=(0, (2, 2)), lw=1, color=FAINT, label="linear")
        lines(axes, rows, "samples_per_s")
        gpu_axis(axes, scales)
        log_axis(axes, format_count)
        axes.set_ylabel("throughput (samples/s)")
        legend_outside(axes)
        return finish(figure, "Throughput against number of GPUs", rows, ("samples_per_s",), path)


def bytes_per_worker(rows: Sequence[Row], path: Path | None = None) -> str:
    """Bytes a worker sends in a step: against GPUs, and what they are for at the largest scale."""
    with house_style() as plt:
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.7), width_ratios=(1.0, 1.0))
        scales = sorted({r["gpus"] for r in some(rows)})
        mib = [{**r, "mib": r["bytes_per_worker"] / 2**20} for r in rows]
        lines(left, mib, "mib")
        gpu_axis(left, scales)
        log_axis(left, "{:,g}".format)
        left.set_ylabel("sent by a worker in a step (MiB)")
        legend_below(left)
        last = [r for r in rows if r["gpus"] == scales[-1]]
        shares = []
        for row in last:
            total = sum(row["bytes_by_traffic"].values()) or 1.0
            shares.append(
                {"strategy": row["strategy"], **{k: 100 * v / total for k, v in row["bytes_by_traffic"].items()}}
            )
        stacked(
            right, shares, ("sparse", "ids", "dense", "control"), [format_size(r["bytes_per_worker"], 3) for r in last]
        )
        right.set(xlabel="share of the bytes (%)", xlim=(0, 118), xticks=(0, 25, 50, 75, 100))
        right.set_title(f"at {scales[-1]:,} GPUs", loc="left")
        legend_below(right)
        columns = ("bytes_per_worker",)
        return finish(figure, "Bytes a worker sends in a step", rows, columns, path, nested=("bytes_by_traffic",))


def step_breakdown(rows: Sequence[Row], path: Path | None = None) -> str:
    """Where a step's time goes: compute, exposed communication and idle; one panel a scale (at most four)."""
    parts = ("compute_s", "exposed_comm_s", "idle_s")
    scales = spread(sorted({r["gpus"] for r in some(rows)}), 4)
    with house_style() as plt:
        names = list(dict.fromkeys(r["strategy"] for r in rows))
        columns = min(2, len(scales))
        deep = -(-len(scales) // columns)
        height = 0.55 + deep * (0.75 + 0.27 * len(names))
        figure, grid = plt.subplots(deep, columns, figsize=(4.6 * columns, height), sharey=True, squeeze=False)
        panels = list(grid.flat)
        for axes, gpus in itertools.zip_longest(panels, scales):
            if gpus is None:
                axes.set_visible(False)
                continue
            here = sorted((r for r in rows if r["gpus"] == gpus), key=lambda r: names.index(r["strategy"]))
            unit, factor = time_unit(max(r["step_time_s"] for r in here))
            scaled = [{"strategy": r["strategy"], **{p: r[p] * factor for p in parts}} for r in here]
            stacked(axes, scaled, parts, [format_time(r["step_time_s"], 3) for r in here])
            axes.set_xlim(0, 1.24 * max(sum(r[p] for p in parts) for r in scaled))
            axes.locator_params(axis="x", nbins=6)
            axes.set_xlabel(f"time of a step ({unit})")
            axes.set_title(f"{gpus:,} GPUs", loc="left")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        return finish(figure, "Where the time of a step goes", rows, ("step_time_s", *parts), path)


def predicted_vs_measured(steps: Sequence[Row], path: Path | None = None) -> str:
    """Measured and predicted time of each step. Rows: `step`, `measured_s`, `predicted_s` (either may be None)."""
    values = [s[k] for s in some(steps) for k in ("measured_s", "predicted_s") if s.get(k) is not None]
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


def utilisation(used: Mapping[str, Any], path: Path | None = None, title: str = "Utilisation of links") -> str:
    """Share of each link class's capacity that carries bytes, over time; a panel for both directions of a class.

    `used` is `utilisation` of a breakdown's JSON: `time_s` [n + 1], and `share` [n] of each class.
    """
    time, shares = used["time_s"], used["share"]
    panels: dict[str, list[str]] = {}
    if not shares:
        raise ValueError("a figure of links that carried nothing")
    for kind in shares:
        panels.setdefault(re.sub("_(up|down)$", "", kind), []).append(kind)
    unit, factor = time_unit(time[-1] - time[0])
    edges = [(t - time[0]) * factor for t in time]
    with house_style() as plt:
        height = 0.75 + 0.62 * len(panels)
        figure, grid = plt.subplots(len(panels), 1, figsize=(6.9, height), sharex=True, squeeze=False)
        for axes, (name, kinds) in zip(grid.flat, panels.items(), strict=True):
            for kind, color, filled in zip(kinds, LINK_COLORS, (True, False), strict=False):
                axes.stairs([100 * v for v in shares[kind]], edges, fill=filled, color=color, lw=1.1, label=_way(kind))
            axes.set(ylim=(0, 105), yticks=(0, 50, 100), xlim=(edges[0], edges[-1]))
            axes.set_ylabel(name, rotation=0, ha="right", va="center")
        grid.flat[-1].set_xlabel(f"time ({unit})")
        grid.flat[0].set_title("% of capacity", loc="left")
        handles = {label: h for axes in grid.flat for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        named = {label: handle for label, handle in handles.items() if label}
        if named:
            figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=len(named), frameon=False)
        rows = [
            {"from_s": a, "to_s": b, "links": kind, "share": share}
            for kind, values in shares.items()
            for a, b, share in zip(time, time[1:], values, strict=False)
        ]
        return finish(figure, title, rows, ("from_s", "to_s", "links", "share"), path)


def _way(kind: str) -> str:
    """Which of the two ways of a link class this is."""
    return {"up": "out of the GPU", "down": "towards the GPU"}.get(kind.rsplit("_", 1)[-1], "")


def training_curve(epochs: Sequence[Row], path: Path | None = None) -> str:
    """Held-out AUC and logloss after each epoch. Rows: `epoch`, `auc`, `logloss`."""
    with house_style() as plt:
        figure, panels = plt.subplots(1, 2, figsize=(6.4, 2.5))
        for axes, key, label in zip(panels, ("auc", "logloss"), ("held-out AUC", "held-out logloss"), strict=True):
            axes.plot([e["epoch"] for e in some(epochs)], [e[key] for e in epochs], marker="o", ms=4, color="#0173b2")
            axes.set(xlabel="epoch", ylabel=label)
            axes.xaxis.get_major_locator().set_params(integer=True)
        return finish(figure, "Held-out quality after each epoch", epochs, ("epoch", "auc", "logloss"), path)
