"""Draw a stream over its rows: throughput, the table, memory and AUC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dessim.files import write_text
from dessim.results.rows import data_csv
from dessim.results.style import house_style
from dessim.results.svg import svg_text

BLUE = "#0173b2"
ORANGE = "#de8f05"
GREY = "#949494"


def stream_figure(result: dict[str, Any], csv: Path) -> str:
    """Return the figure as SVG and write its data to `csv`. Grey: the warm-up."""
    import seaborn

    batch_rows = result["reports"][0]["rows"]
    rows = [r | {"rows_per_cpu_s": batch_rows / r["cpu_s"]} for r in result["reports"]]
    million_rows = [r["rows"] / 1e6 for r in rows]
    panels = (
        (
            "thousand rows/s",
            (("rows_per_s", 1e3, "by the clock", BLUE), ("rows_per_cpu_s", 1e3, "a CPU second", ORANGE)),
        ),
        (
            "rows, ids (million)",
            (("table_rows", 1e6, "rows of the table", BLUE), ("candidates", 1e6, "ids that wait", ORANGE)),
        ),
        ("memory in use (GiB)", (("memory_bytes", 2**30, "", BLUE),)),
        ("progressive AUC", (("auc", 1.0, "", BLUE),)),
    )
    with house_style() as plt:
        figure, grid = plt.subplots(2, 2, figsize=(9.2, 5.4), sharex=True)
        for axes, (label, lines) in zip(grid.flat, panels, strict=True):
            axes.axvspan(0, result["warm_up_rows"] / 1e6, color=GREY, alpha=0.15, linewidth=0)
            for key, unit, name, color in lines:
                y = [r[key] / unit for r in rows]
                seaborn.lineplot(
                    x=million_rows, y=y, color=color, linewidth=1.3, label=name or None, legend=False, ax=axes
                )
            axes.set_ylabel(label)
            if label != "progressive AUC":
                axes.set_ylim(bottom=0)
            if len(lines) > 1:
                axes.legend(frameon=False, loc="lower right")
        for axes in grid[1]:
            axes.set_xlabel("rows so far (million)")
        text = svg_text(figure, "A stream of rows: throughput, table, memory and AUC")
    columns = ("rows", "rows_per_s", "rows_per_cpu_s", "auc", "table_rows", "candidates", "memory_bytes")
    write_text(csv, data_csv(rows, columns))
    return text
