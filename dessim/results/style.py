"""The house style of figures: one colour, marker and hatch a thing, everywhere; settings that depend on no machine."""

from __future__ import annotations

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
    dash: tuple[float, float] | None = None  # for strategies whose line tends to lie on another's


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

LINK_COLORS = ("#8fb8d9", "#c44e1c")  # one way filled, the other a line over it

INK, FAINT = "#1a1b1c", "#9a9b9c"  # stand-ins; an inline figure gets the page's colours in their place


def style_of(strategy: str) -> Style:
    """The style of a strategy; with options its line is dotted; grey and its own name for one this version does not
    know."""
    name, plus, options = strategy.partition("+")
    if plus and name in STRATEGY_STYLE:
        base = STRATEGY_STYLE[name]
        return Style(f"{base.label} +{options}", base.color, base.marker, (1, 2))
    short = strategy if len(strategy) <= 40 else strategy[:39] + "…"
    return STRATEGY_STYLE.get(strategy, Style(short, "#949494", "h"))


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
