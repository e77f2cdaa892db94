"""Draw the cost of a simulation as the cluster grows: seconds and memory of whole processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dessim.files import write_text
from dessim.results.axes import gpu_axis, log_axis
from dessim.results.rows import data_csv
from dessim.results.style import house_style
from dessim.results.svg import svg_text

COLOURS = {"ring": "#0173b2", "hierarchical": "#029e73", "pairwise": "#de8f05"}
MARKERS = {"ring": "o", "hierarchical": "s", "pairwise": "D"}


def cost_figure(rows: Sequence[dict[str, Any]], csv: Path) -> str:
    """Return the figure as SVG and write its data to `csv`. Dashed: SimGrid; hollow: all_to_all of the same family."""
    import seaborn

    lines = list(dict.fromkeys(row["work"] for row in rows))
    with house_style() as plt:
        figure, panels = plt.subplots(1, 2, figsize=(9.2, 3.9))
        for axes, key, label in zip(
            panels, ("cpu_s", "peak_rss_MiB"), ("CPU time of the process (s)", "peak memory (MiB)"), strict=True
        ):
            for line in lines:
                family = line.split()[0]
                is_simgrid = "SimGrid" in line
                points = [row for row in rows if row["work"] == line]
                hollow = line == "hierarchical all_to_all"
                seaborn.lineplot(
                    x=[row["gpus"] for row in points],
                    y=[row[key] for row in points],
                    color=COLOURS[family],
                    marker=MARKERS[family],
                    markerfacecolor="white" if hollow else COLOURS[family],
                    markeredgecolor=COLOURS[family],
                    linestyle=(0, (3, 2)) if is_simgrid else (0, (1, 1)) if hollow else "-",
                    markersize=5,
                    linewidth=1.5,
                    label=line,
                    legend=False,
                    ax=axes,
                )
            gpu_axis(axes, sorted({row["gpus"] for row in rows}), max_ticks=6)
            log_axis(axes, "{:,g}".format)
            axes.set_ylabel(label)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, handlelength=3)
        text = svg_text(figure, "Cost of simulating a collective against the number of GPUs")
    write_text(csv, data_csv(rows, ("work", "gpus", "cpu_s", "peak_rss_MiB")))
    return text
