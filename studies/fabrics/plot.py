"""Simulate a step of each strategy on each fabric and scale: where its time goes, and what bounds it.

    python studies/fabrics/plot.py            # write the tables, fabrics.csv and fabrics.svg; check expected.json
    python studies/fabrics/plot.py --update   # replace expected.json by the findings

Reads study.toml. Exits 3 when the findings differ from expected.json.
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from dessim.cluster import load_cluster
from dessim.cluster.check import describe
from dessim.files import read_toml
from dessim.results.rows import data_csv
from dessim.results.study import conclude, study_parser
from dessim.results.style import house_style, strategy_label, style_of
from dessim.results.svg import svg_text
from dessim.sweep.grid import Study, read_study
from dessim.sweep.run import sweep_rows
from dessim.units import format_time, percent

HERE = Path(__file__).parent
TIMES = ("step_time_s", "compute_s", "exposed_comm_s", "idle_s")
COLUMNS = ("fabric", "gpus", "strategy", *TIMES, "samples_per_s", "bound_by", "longest_op", "longest_share")


def cluster_of(fabric: dict[str, str]) -> Any:
    """Return the cluster of an entry of study.toml: a file in this folder, or a shipped topology."""
    local = HERE / fabric["value"]
    return load_cluster(local if local.is_file() else fabric["value"])


def compute(study: Study, jobs: int) -> list[dict[str, Any]]:
    """Simulate all points, rounded to five digits so that all machines agree."""
    return [
        {
            "fabric": row["cluster"],
            **{key: row[key] for key in ("gpus", "strategy")},
            **{key: _round(row[key]) for key in (*TIMES, "samples_per_s")},
            **{key: row[key] for key in ("bound_by", "longest_op")},
            "longest_share": _round(row["longest_op_s"] / row["step_time_s"]),
        }
        for row in sweep_rows(study, jobs)
    ]


def table(grid: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Return two Markdown tables: the fabrics, and the steps with the fastest strategy of each fabric in bold."""
    lines = ["| fabric | switches | cables between them | bisection per GPU |", "|---|---:|---:|---:|"]
    for fabric in grid["cluster"]:
        cluster = cluster_of(fabric)
        summary = describe(cluster)
        links = cluster.links.capacity[: cluster.wiring.first_server_link]
        cables = round(float(links.sum()) / cluster.node.nic.capacity / 2)  # every cable is as fast as a NIC
        bisection = summary["bisection_GBps"] / (summary["gpus"] / 2)
        switches = sum(summary["switches"].values())
        lines.append(f"| {fabric['name']} | {switches:,} | {cables:,} | {bisection:.3g} GB/s |")
    lines += [
        "",
        "| GPUs | fabric | strategy | step | compute | exposed comm. | bound by | longest on the critical path |",
        "|---:|---|---|---:|---:|---:|---|---|",
    ]
    ordered = sorted(rows, key=lambda row: row["gpus"])  # a stable sort keeps the order of fabrics
    for _, block in groupby(ordered, key=lambda row: (row["gpus"], row["fabric"])):
        fabric_rows = list(block)
        best = min(row["step_time_s"] for row in fabric_rows)
        for i, row in enumerate(fabric_rows):
            bold = "**" if row["step_time_s"] == best else ""
            step, computing, exposed = (format_time(row[key], 3) for key in TIMES[:3])
            head = f"{row['gpus']:,} | {row['fabric']}" if i == 0 else " | "
            label = strategy_label(row["strategy"])
            longest = f"`{row['longest_op']}`, {percent(row['longest_share'])}"
            lines.append(
                f"| {head} | {bold}{label}{bold} | {bold}{step}{bold} | {computing} | {exposed} "
                f"| {row['bound_by']} | {longest} |"
            )
    return "\n".join(lines) + "\n"


def draw(grid: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Draw the time of a step by fabric as SVG text, one panel per scale."""
    import seaborn as sns
    from matplotlib.ticker import LogLocator, NullFormatter

    styles = {name: style_of(name) for name in grid["strategy"]}
    order = [style.label for style in styles.values()]
    with house_style() as plt:
        figure, panels = plt.subplots(1, len(grid["gpus"]), figsize=(9.2, 2.9), sharey=True, squeeze=False)
        for axes, gpus in zip(panels.flat, grid["gpus"], strict=True):
            shown = [row for row in rows if row["gpus"] == gpus]
            sns.scatterplot(
                x=[1e3 * row["step_time_s"] for row in shown],
                y=[row["fabric"] for row in shown],
                hue=[styles[row["strategy"]].label for row in shown],
                style=[styles[row["strategy"]].label for row in shown],
                hue_order=order,
                style_order=order,
                palette={style.label: style.color for style in styles.values()},
                markers={style.label: style.marker for style in styles.values()},
                s=60,
                legend=axes is panels.flat[-1],
                ax=axes,
            )
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_major_formatter("{x:,g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set(xlabel="time of a step (ms)", ylabel="", ylim=(len(grid["cluster"]) - 0.5, -0.5))
            axes.grid(True, axis="both")
            axes.set_title(f"{gpus:,} GPUs", loc="left")
        panels.flat[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
        return svg_text(figure, "A step on five fabrics")


def _round(value: float) -> float:
    return float(f"{value:.5g}")


def main(arguments: list[str] | None = None) -> int:
    parser = study_parser(__doc__, HERE, jobs=True)
    options = parser.parse_args(arguments)

    study = HERE / "study.toml"
    rows = compute(read_study(study), options.jobs)
    grid = read_toml(study)["grid"]
    files = {"fabrics.csv": data_csv(rows, COLUMNS), "fabrics.svg": draw(grid, rows)}
    return conclude(HERE, options, table(grid, rows), files, rows)


if __name__ == "__main__":
    sys.exit(main())
