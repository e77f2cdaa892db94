"""Figures, in one house style: the only place in dessim that draws with seaborn.

Every function takes plain dicts (the rows of result.json) and returns SVG text fit for pasting into a page: background
transparent, ink in the page's own text colour (light or dark), ids that no other figure uses. With `path` it also
writes that file (on white, for papers and READMEs) and the data it shows as CSV beside it. Same data, same bytes; no
data is a ValueError.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from dessim.files import write_text
from dessim.units import format_count, format_size, format_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Style:
    """How one strategy looks in every figure and table."""

    label: str
    color: str
    marker: str
    dash: tuple[float, float] | None = None  # for strategies whose line tends to lie on another's


# The colours are seaborn's "colorblind" palette, written out so that importing this module stays cheap.
STRATEGY_STYLE: dict[str, Style] = {
    "des_all_reduce": Style("DES AllReduce", "#0173b2", "o"),
    "des_reduce_scatter": Style("DES ReduceScatter", "#56b4e9", "s", (3, 2)),
    "mesh": Style("mesh", "#949494", "X"),
    "table_wise": Style("table-wise", "#029e73", "^"),
    "row_wise": Style("row-wise", "#de8f05", "D"),
    "row_all_to_all": Style("row AllToAll", "#cc78bc", "v"),
    "ps_sync": Style("parameter server", "#d55e00", "P", (3, 2)),
}

# Parts of a bar; not strategy colours, and hatched so that they survive a grey printer.
PART_STYLE: dict[str, tuple[str, str, str]] = {
    "compute_s": ("compute", "#5f7d95", ""),
    "exposed_comm_s": ("exposed communication", "#e0685c", "///"),
    "idle_s": ("idle", "#c9c9c9", ""),
    "sparse": ("sparse (in place of rows)", "#5f7d95", ""),
    "ids": ("ids", "#e3b23c", "///"),
    "dense": ("dense gradients, parameters", "#9d7fb8", "\\\\\\"),
    "control": ("control", "#c9c9c9", ""),
}

INK, FAINT = "#1a1b1c", "#9a9b9c"  # stand-ins; an inline figure gets the page's colours in their place


def style_of(strategy: str) -> Style:
    """The style of a strategy; grey and its own name for one this version does not know."""
    short = strategy if len(strategy) <= 40 else strategy[:39] + "…"
    return STRATEGY_STYLE.get(strategy, Style(short, "#949494", "h"))


# ------------------------------------------------------------------------------------------------ figures


def throughput(rows: Sequence[Row], path: Path | None = None) -> str:
    """Samples a second against GPUs, one line a strategy, and what linear scaling of the best start would give."""
    with house_style() as plt:
        figure, axes = plt.subplots(figsize=(6.4, 3.7))
        first = min(r["gpus"] for r in _some(rows))
        start = max(r["samples_per_s"] for r in rows if r["gpus"] == first)
        scales = sorted({r["gpus"] for r in rows})
        axes.plot(scales, [start * g / first for g in scales], ls=(0, (2, 2)), lw=1, color=FAINT, label="linear")
        _lines(axes, rows, "samples_per_s")
        gpu_axis(axes, scales)
        log_axis(axes, format_count)
        axes.set_ylabel("throughput (samples/s)")
        _legend_outside(axes)
        return _finish(figure, "Throughput against number of GPUs", rows, ("samples_per_s",), path)


def bytes_per_worker(rows: Sequence[Row], path: Path | None = None) -> str:
    """Bytes a worker sends in a step: against GPUs, and what they are for at the largest scale."""
    with house_style() as plt:
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.7), width_ratios=(1.0, 1.0))
        scales = sorted({r["gpus"] for r in _some(rows)})
        mib = [{**r, "mib": r["bytes_per_worker"] / 2**20} for r in rows]
        _lines(left, mib, "mib")
        gpu_axis(left, scales)
        log_axis(left, "{:,g}".format)
        left.set_ylabel("sent by a worker in a step (MiB)")
        _legend_below(left)
        last = [r for r in rows if r["gpus"] == scales[-1]]
        shares = []
        for row in last:
            total = sum(row["bytes_by_traffic"].values()) or 1.0
            shares.append(
                {"strategy": row["strategy"], **{k: 100 * v / total for k, v in row["bytes_by_traffic"].items()}}
            )
        _stacked(
            right, shares, ("sparse", "ids", "dense", "control"), [format_size(r["bytes_per_worker"], 3) for r in last]
        )
        right.set(xlabel="share of the bytes (%)", xlim=(0, 118), xticks=(0, 25, 50, 75, 100))
        right.set_title(f"at {scales[-1]:,} GPUs", loc="left")
        _legend_below(right)
        columns = ("bytes_per_worker",)
        return _finish(figure, "Bytes a worker sends in a step", rows, columns, path, nested=("bytes_by_traffic",))


def step_breakdown(rows: Sequence[Row], path: Path | None = None) -> str:
    """Where a step's time goes: compute, exposed communication and idle; one panel a scale (at most four)."""
    parts = ("compute_s", "exposed_comm_s", "idle_s")
    scales = _spread(sorted({r["gpus"] for r in _some(rows)}), 4)
    with house_style() as plt:
        names = list(dict.fromkeys(r["strategy"] for r in rows))
        columns = min(2, len(scales))
        lines = -(-len(scales) // columns)
        height = 0.55 + lines * (0.75 + 0.27 * len(names))
        figure, grid = plt.subplots(lines, columns, figsize=(4.6 * columns, height), sharey=True, squeeze=False)
        panels = list(grid.flat)
        for axes, gpus in itertools.zip_longest(panels, scales):
            if gpus is None:
                axes.set_visible(False)
                continue
            here = sorted((r for r in rows if r["gpus"] == gpus), key=lambda r: names.index(r["strategy"]))
            unit, factor = _time_unit(max(r["step_time_s"] for r in here))
            scaled = [{"strategy": r["strategy"], **{p: r[p] * factor for p in parts}} for r in here]
            _stacked(axes, scaled, parts, [format_time(r["step_time_s"], 3) for r in here])
            axes.set_xlim(0, 1.24 * max(sum(r[p] for p in parts) for r in scaled))
            axes.locator_params(axis="x", nbins=6)
            axes.set_xlabel(f"time of a step ({unit})")
            axes.set_title(f"{gpus:,} GPUs", loc="left")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        return _finish(figure, "Where the time of a step goes", rows, ("step_time_s", *parts), path)


def predicted_vs_measured(steps: Sequence[Row], path: Path | None = None) -> str:
    """Measured and predicted time of each step. Rows: `step`, `measured_s`, `predicted_s` (either may be None)."""
    values = [s[k] for s in _some(steps) for k in ("measured_s", "predicted_s") if s.get(k) is not None]
    unit, factor = _time_unit(max(values, default=1.0))
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
        _legend_outside(axes)
        data = [
            {"step": s["step"], "measured_s": s.get("measured_s"), "predicted_s": s.get("predicted_s")} for s in steps
        ]
        return _finish(
            figure, "Time of a step, predicted and measured", data, ("step", "measured_s", "predicted_s"), path
        )


def training_curve(epochs: Sequence[Row], path: Path | None = None) -> str:
    """Held-out AUC and logloss after each epoch. Rows: `epoch`, `auc`, `logloss`."""
    with house_style() as plt:
        figure, panels = plt.subplots(1, 2, figsize=(6.4, 2.5))
        for axes, key, label in zip(panels, ("auc", "logloss"), ("held-out AUC", "held-out logloss"), strict=True):
            axes.plot([e["epoch"] for e in _some(epochs)], [e[key] for e in epochs], marker="o", ms=4, color="#0173b2")
            axes.set(xlabel="epoch", ylabel=label)
            axes.xaxis.get_major_locator().set_params(integer=True)
        return _finish(figure, "Held-out quality after each epoch", epochs, ("epoch", "auc", "logloss"), path)


# ------------------------------------------------------------------------------------------------ parts of figures


def _some(rows: Sequence[Row]) -> Sequence[Row]:
    if not rows:
        raise ValueError("a figure needs at least one row")
    return rows


@contextmanager
def house_style() -> Iterator[Any]:
    """matplotlib.pyplot in the house style, on the backend that needs no display; all settings undone afterwards."""
    import matplotlib as mpl
    import seaborn
    from matplotlib import pyplot as plt

    sns: Any = seaborn  # has no types
    before = mpl.get_backend()
    plt.switch_backend("svg")
    ink = dict.fromkeys(
        ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor", "axes.titlecolor"), INK
    )
    settings = {
        **sns.plotting_context("paper", font_scale=1.1),
        **sns.axes_style("ticks"),
        **ink,
        "font.family": ["sans-serif"],
        "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so that layouts do not depend on the machine
        "axes.titlesize": "medium",
        "axes.facecolor": "none",  # the figure's background shows, or the page's
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": FAINT,
        "grid.alpha": 0.3,
        "hatch.linewidth": 0.6,
        "text.parse_math": False,  # names come from files; a dollar sign in one is a dollar sign
        "svg.fonttype": "none",  # text stays text: it can be read aloud, searched, and follows the page's font
        "svg.hashsalt": "dessim",
        "figure.constrained_layout.use": True,
    }
    try:
        with mpl.rc_context(settings):
            yield plt
    finally:
        plt.close("all")
        plt.switch_backend(before)


def _lines(axes: Axes, rows: Sequence[Row], key: str) -> None:
    """One line a strategy, in the order the rows name them."""
    import seaborn

    sns: Any = seaborn  # has no types
    order = list(dict.fromkeys(r["strategy"] for r in rows))
    styles = [style_of(name) for name in order]
    data = {
        "gpus": [r["gpus"] for r in rows],
        "strategy": [style_of(r["strategy"]).label for r in rows],
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


def _stacked(axes: Axes, rows: Sequence[Row], parts: Sequence[str], totals: Sequence[str]) -> None:
    """Horizontal stacked bars, one a strategy, first row on top; `totals` are written at the bars' ends."""
    labels = [style_of(r["strategy"]).label for r in rows]
    left = [0.0] * len(rows)
    for part in parts:
        name, color, hatch = PART_STYLE[part]
        widths = [float(r.get(part, 0.0)) for r in rows]
        axes.barh(
            labels, widths, left=left, height=0.68, color=color, hatch=hatch, edgecolor="white", lw=0.4, label=name
        )
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for label, end, text in zip(labels, left, totals, strict=True):
        axes.annotate(text, (end, label), xytext=(4, 0), textcoords="offset points", va="center", size="small")
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def gpu_axis(axes: Axes, scales: Sequence[int], most: int = 8, label: str = "GPUs") -> None:
    """A log2 axis with at most `most` of the scales on it."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(_spread(scales, most)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel(label)


def log_axis(axes: Axes, text: Callable[[float], str]) -> None:
    """A logarithmic y axis with labels a reader need not decode."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    labels = FuncFormatter(lambda value, _: text(value))
    axes.yaxis.set_major_formatter(labels)
    narrow = high < 30 * low  # hardly a power of ten inside: label 2 and 5 as well
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if narrow else range(2, 10)))
    axes.yaxis.set_minor_formatter(labels if narrow else NullFormatter())


def _legend_outside(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if legend := axes.get_legend():
        legend.remove()
    if handles:
        axes.legend(handles, labels, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _legend_below(axes: Axes) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.19), ncols=2, frameon=False, handlelength=2)


def _spread(values: Sequence[int], most: int) -> list[int]:
    """At most `most` of the values, evenly spread, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def _time_unit(seconds: float) -> tuple[str, float]:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return unit, factor
    return "ns", 1e9


# ------------------------------------------------------------------------------------------------ SVG and CSV


def _finish(
    figure: Figure,
    title: str,
    rows: Sequence[Row],
    columns: Sequence[str],
    path: Path | None,
    nested: Sequence[str] = (),
) -> str:
    if path is not None:
        write_text(path, svg_text(figure, title))
        keys = ("gpus", "strategy", *columns) if rows and "gpus" in rows[0] else tuple(columns)
        write_text(path.with_suffix(".csv"), data_csv(rows, keys, nested))
    return inline(svg_text(figure, title, "none"), re.sub(r"\W+", "-", title.lower()))


def svg_text(figure: Figure, title: str, background: str = "white") -> str:
    """The figure as SVG; the same figure gives the same bytes."""
    out = io.StringIO()
    nobody = {"Date": None, "Creator": None, "Title": title}
    figure.savefig(out, format="svg", metadata=nobody, facecolor=background, bbox_inches="tight", pad_inches=0.06)
    return out.getvalue()


def inline(svg: str, name: str) -> str:
    """An SVG file's text made fit for a page: no XML prologue, ids prefixed by `name`, ink in the page's colour."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = svg.replace(INK, "currentColor")
    label = escape(name.replace("-", " "), {'"': "&quot;"})
    return re.sub(r"<svg\b", f'<svg role="img" aria-label="{label}"', svg, count=1)


def fitting(rows: Iterable[Row]) -> list[Row]:
    """The rows that have times: those of jobs that fit their GPUs."""
    return [row for row in rows if not row.get("does_not_fit")]


def data_csv(rows: Iterable[Row], columns: Sequence[str], nested: Sequence[str] = ()) -> str:
    """Rows as CSV; a dict in a row (one of `nested`) becomes columns: `bytes_ids` for `bytes_by_traffic.ids`."""
    rows = list(rows)
    inner = {key: sorted({k for r in rows for k in r[key]}) for key in nested}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    spread = [(key, k) for key, keys in inner.items() for k in keys]
    writer.writerow([*columns, *(f"{key.split('_by_')[0]}_{k}" for key, k in spread)])
    for row in rows:
        writer.writerow([*(row.get(c, "") for c in columns), *(row[key].get(k, 0) for key, k in spread)])
    return out.getvalue()
