"""The house style of figures: the same colour, marker and hatch for the same thing in every figure and table.

The settings do not depend on the machine, so that the same data gives the same SVG.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Style:
    """How one strategy looks in every figure and table."""

    label: str
    color: str
    marker: str
    dash: tuple[float, float] | None = None  # sets lines apart that tend to coincide


# The colours are seaborn's "colorblind" palette, written out so that importing this module stays cheap.
STRATEGY_STYLE: dict[str, Style] = {
    "des_all_reduce": Style("DES AllReduce", "#0173b2", "o"),
    "des_reduce_scatter": Style("DES ReduceScatter", "#56b4e9", "s", (3, 2)),
    "mesh": Style("mesh", "#949494", "X"),
    "table_wise": Style("table-wise", "#029e73", "^"),
    "row_wise": Style("row-wise", "#de8f05", "D"),
    "row_all_to_all": Style("row AllToAll", "#cc78bc", "v"),
    "row_all_gather": Style("row AllGather", "#ece133", "<"),
    "data_parallel": Style("data parallel", "#ca9161", "p"),
    "ps_sync": Style("parameter server", "#d55e00", "P", (3, 2)),
    "ps_async": Style("parameter server, async", "#fbafe4", "*"),
}

# Segments of a bar: label, colour, hatch. Their colours are no strategy's; hatches survive a black-and-white printer.
PART_STYLE: dict[str, tuple[str, str, str]] = {
    "compute_s": ("compute", "#5f7d95", ""),
    "exposed_comm_s": ("exposed communication", "#e0685c", "///"),
    "idle_s": ("idle", "#c9c9c9", ""),
    "sparse": ("sparse (in place of rows)", "#5f7d95", ""),
    "ids": ("ids", "#e3b23c", "///"),
    "dense": ("dense gradients, parameters", "#9d7fb8", "\\\\\\"),
    "control": ("control", "#c9c9c9", ""),
}

LINK_COLORS = ("#8fb8d9", "#c44e1c")  # one direction is filled, the other is a line drawn over it

INK = "#1a1b1c"  # text and axes; becomes the page's own text colour in a figure pasted into a page
FAINT = "#9a9b9c"  # grids and reference lines


# Options behind a strategy's name, as in `ps_sync+hot_rows=1000` (dessim.workload.options).
OPTION_LABELS = {
    "hot_rows": "{} hot rows",
    "look_ahead": "look-ahead",
    "cache_rows": "{} cached rows",
    "shampoo": "Shampoo",
}
_GROUPS = re.compile(r"\d+ \w+(, \d+ \w+)*")
"""A composed plan: how many tables each strategy has (dessim.workload.composed)."""
_LONGEST_UNKNOWN_NAME = 40  # characters; the rest of a longer name is cut


def plain_style(strategy: str) -> Style | None:
    """The style of a strategy without its options; None for an unknown one."""
    return STRATEGY_STYLE.get(strategy.partition("+")[0])


def style_of(strategy: str) -> Style:
    """The style of a strategy. With options its line is dotted; an unknown strategy is grey, under its own name."""
    _, *options = strategy.split("+")
    base = plain_style(strategy)
    if base is None and (tables := _GROUPS.fullmatch(strategy)):
        return Style(_label_of_groups(tables.group()), color="#333333", marker="*")
    if base is None:
        is_long = len(strategy) > _LONGEST_UNKNOWN_NAME
        label = strategy[: _LONGEST_UNKNOWN_NAME - 1] + "…" if is_long else strategy
        return Style(label, color="#949494", marker="h")
    if not options:
        return base
    label = ", ".join([base.label, *map(_option_label, options)])
    return Style(label, base.color, base.marker, dash=(1, 2))


def strategy_label(strategy: str) -> str:
    """The words for a strategy: `ps_sync+hot_rows=1000` is "parameter server, 1,000 hot rows"."""
    return style_of(strategy).label


def _label_of_groups(strategy: str) -> str:
    """The words for a composed plan: "10 table_wise, 14 row_all_to_all" is "10 table-wise, 14 row AllToAll".

    Without the number if all tables have one strategy.
    """
    groups = [group.split(" ") for group in strategy.split(", ")]
    if len(groups) == 1:
        return family_label(groups[0][1])
    return ", ".join(f"{count} {family_label(name)}" for count, name in groups)


def family_label(name: str) -> str:
    """The words for the strategy of a table, and for what else the name of a composed plan counts."""
    of_tables = {
        "column_wise": "column-wise",
        "table_row_wise": "table-row-wise",
        "replicas": "replicas",
        "spilt": "spilt",
    }
    return of_tables.get(name) or strategy_label(name)


def _option_label(option: str) -> str:
    name, _, value = option.partition("=")
    if name not in OPTION_LABELS:
        return option
    return OPTION_LABELS[name].format(f"{int(value):,}" if value.isdecimal() else value)


@contextmanager
def house_style() -> Iterator[Any]:
    """matplotlib.pyplot in the house style, on the SVG backend; restores all settings afterwards."""
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
        "font.sans-serif": ["DejaVu Sans"],  # shipped with matplotlib, so the layout does not depend on the machine
        "axes.titlesize": "medium",
        "axes.facecolor": "none",  # lets the background of the figure or the page show
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": FAINT,
        "grid.alpha": 0.3,
        "hatch.linewidth": 0.6,
        "text.parse_math": False,  # names are read from files; a dollar sign in one is not mathematics
        "svg.fonttype": "none",  # keep text as text: searchable, readable aloud, in the page's font
        "svg.hashsalt": "dessim",
        "figure.constrained_layout.use": True,
    }
    try:
        with mpl.rc_context(settings):
            yield plt
    finally:
        plt.close("all")
        plt.switch_backend(before)
