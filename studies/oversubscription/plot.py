"""Simulate four strategies on a fat tree at 1:1, 2:1 and 4:1, with faster NICs and cables: which needs which network?

    python studies/oversubscription/plot.py            # write the tables, CSV and SVG; check expected.json
    python studies/oversubscription/plot.py --update   # replace expected.json by the findings
    python studies/oversubscription/plot.py --quick    # simulate 128 GPUs as built again and compare; write nothing

Reads study.toml. Exits 3 when the findings differ from expected.json.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from dessim.results.error_bar import is_tie
from dessim.results.labels import bound_label
from dessim.results.rows import data_csv
from dessim.results.study import conclude, conclude_quick, run_study, study_parser
from dessim.results.style import FAINT, house_style, strategy_label, style_of
from dessim.results.svg import svg_text
from dessim.sweep.grid import Study, read_study
from dessim.sweep.run import sweep_rows
from dessim.units import format_time, percent

HERE = Path(__file__).parent
QUICK = {"gpus": 128, "what_if": "none"}
NOTICED = 1e-3  # smaller changes come from the tolerance of the solver
HASHED = "4:1, routes by hash"
POINT = ("gpus", "what_if", "cluster", "strategy")
TIMES = ("step_time_s", "low_s", "high_s", "exposed_comm_s")
CHANGES = {
    "none": "as built",
    "2x:nic_rate": "NICs 2x",
    "2x:uplink_rate": "cables 2x",
    "2x:nic_rate+2x:uplink_rate": "NICs and cables 2x",
}


def compute(study: Study, jobs: int) -> list[dict[str, Any]]:
    """Simulate the points, rounded to four digits so that all machines agree.

    `fastest`: of its network; `tie`: it may be as fast as that one. `busiest_GB`: what the busiest worker sends.
    """
    simulated = sorted(sweep_rows(study, jobs), key=lambda row: (row["gpus"], [*CHANGES].index(row["what_if"])))
    rows = []
    for _, block in groupby(simulated, key=lambda row: (row["gpus"], row["what_if"], row["cluster"])):
        at = list(block)
        best = min(at, key=lambda row: row["step_time_s"])
        for row in at:
            least = row["least_step_s"] or {}
            rows.append(
                {
                    **{key: row[key] for key in POINT},
                    **{key: _round(row[key]) for key in TIMES},
                    "fastest": row is best,
                    "tie": row is not best and is_tie(best, row),
                    "bound_by": row["bound_by"],
                    "busiest_GB": _round(row.get("busiest_worker_bytes", row["bytes_per_worker"]) / 1e9),
                    "memory_GB": _round(row["memory_bytes"] / 1e9),
                    **{f"least_{part}_s": _round(seconds) for part, seconds in least.items()},
                }
            )
    return rows


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def needs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The loss of each strategy on a thinner fabric, and its gain by faster NICs, cables and both, at each scale."""
    step = {tuple(row[key] for key in POINT): row["step_time_s"] for row in rows}
    found = []
    for gpus, strategy in dict.fromkeys((row["gpus"], row["strategy"]) for row in rows):

        def at(change: str, cluster: str, key: tuple[int, str] = (gpus, strategy)) -> float:
            return step[key[0], change, cluster, key[1]]

        found.append(
            {
                "gpus": gpus,
                "strategy": strategy,
                **{f"loss_{thin}": _round(at("none", thin) / at("none", "1:1") - 1) for thin in ("2:1", "4:1")},
                **{
                    f"gain_{change}_{cluster}": _round(at("none", cluster) / at(change, cluster) - 1)
                    for change in CHANGES
                    if change != "none"
                    for cluster in ("1:1", "4:1")
                },
            }
        )
    return found


def spread(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of fabrics that spread their flows evenly over cables, as all but HASHED do."""
    return [row for row in rows if row["cluster"] != HASHED]


def table(rows: list[dict[str, Any]]) -> str:
    """Three Markdown tables: what each strategy loses and gains, all steps with the fastest in bold, and routes."""
    hashed = [row for row in rows if row["cluster"] == HASHED]
    rows = spread(rows)
    gains = [(change, cluster) for cluster in ("1:1", "4:1") for change in CHANGES if change != "none"]
    lines = [
        "| GPUs | strategy | 2:1 | 4:1 | " + " | ".join(f"{CHANGES[c]} at {at}" for c, at in gains) + " |",
        "|---:|---|" + "---:|" * (2 + len(gains)),
    ]
    for entry in needs(rows):
        losses = [_change(entry[f"loss_{thin}"]) for thin in ("2:1", "4:1")]
        gained = [_change(entry[f"gain_{change}_{at}"]) for change, at in gains]
        lines.append(f"| {entry['gpus']:,} | {strategy_label(entry['strategy'])} | {' | '.join([*losses, *gained])} |")
    lines += [
        "",
        "| GPUs | network | strategy | 1:1 | 2:1 | 4:1 | bound by, 1:1 | 4:1 |",
        "|---:|---|---|---:|---:|---:|---|---|",
    ]
    for (gpus, change), block in groupby(rows, key=lambda row: (row["gpus"], row["what_if"])):
        at = list(block)
        for strategy in dict.fromkeys(row["strategy"] for row in at):
            by_fabric = [row for row in at if row["strategy"] == strategy]
            steps = " | ".join(map(_text, by_fabric))
            bounds = " | ".join(bound_label(by_fabric[end]["bound_by"]) for end in (0, -1))
            lines.append(f"| {gpus:,} | {CHANGES[change]} | {strategy_label(strategy)} | {steps} | {bounds} |")
    lines += ["", "| GPUs | strategy | 4:1, flows spread evenly | 4:1, routes by hash |", "|---:|---|---:|---:|"]
    for row in hashed:
        same = {"gpus": row["gpus"], "what_if": row["what_if"], "cluster": "4:1", "strategy": row["strategy"]}
        even = next(other for other in rows if other.items() >= same.items())
        steps = " | ".join(format_time(each["step_time_s"], 3) for each in (even, row))
        lines.append(f"| {row['gpus']:,} | {strategy_label(row['strategy'])} | {steps} |")
    return "\n".join(lines) + "\n"


def _change(part: float) -> str:
    return percent(part if abs(part) > NOTICED else 0.0, signed=True)


def _text(row: dict[str, Any]) -> str:
    step = format_time(row["step_time_s"], 3)
    return f"**{step}**" if row["fastest"] else f"{step}, tie" if row["tie"] else step


def draw(rows: list[dict[str, Any]]) -> str:
    """Draw steps with error bars over oversubscription as SVG text: a row for each scale, a column for each change."""
    rows = spread(rows)
    scales = list(dict.fromkeys(row["gpus"] for row in rows))
    fabrics = list(dict.fromkeys(row["cluster"] for row in rows))
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    with house_style() as plt:
        size = {"figsize": (10.6, 5.6), "sharex": True, "sharey": "row", "layout": "constrained"}
        figure, panels = plt.subplots(len(scales), len(CHANGES), **size)
        for line, gpus in zip(panels, scales, strict=True):
            for axes, change in zip(line, CHANGES, strict=True):
                for number, strategy in enumerate(strategies):
                    shown = [r for r in rows if (r["gpus"], r["what_if"], r["strategy"]) == (gpus, change, strategy)]
                    if not shown:
                        continue
                    look = style_of(strategy)
                    steps = [1e3 * row["step_time_s"] for row in shown]
                    below = [1e3 * (row["step_time_s"] - row["low_s"]) for row in shown]
                    above = [1e3 * (row["high_s"] - row["step_time_s"]) for row in shown]
                    axes.errorbar(
                        [fabrics.index(row["cluster"]) + 0.07 * (number - 1.5) for row in shown],
                        steps,
                        yerr=[below, above],
                        color=look.color,
                        marker=look.marker,
                        markersize=5,
                        lw=1.2,
                        capsize=2,
                        label=look.label,
                    )
                axes.set_yscale("log")
                axes.set_yticks((2, 5, 10, 20, 50), ("2", "5", "10", "20", "50"))
                axes.set_yticks((), minor=True)
                axes.set_xticks(range(len(fabrics)), fabrics)
                axes.grid(True, axis="y", color=FAINT)
            line[0].set_ylabel(f"{gpus:,} GPUs: step (ms)")
        for axes, title in zip(panels[0], CHANGES.values(), strict=True):
            axes.set_title(title, loc="left")
        for axes in panels[-1]:
            axes.set_xlabel("oversubscription")
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        return svg_text(figure, "Steps on oversubscribed fabrics")


def main(arguments: list[str] | None = None) -> int:
    parser = study_parser(__doc__, HERE, quick="simulate 128 GPUs as built again and compare", jobs=True)
    options = parser.parse_args(arguments)
    study = read_study(HERE / "study.toml")
    if options.quick:
        few = tuple(point for point in study.points if point.labels.items() >= QUICK.items())
        found = compute(replace(study, points=few), options.jobs)
        return conclude_quick(HERE, found, lambda row: row.items() >= QUICK.items())
    rows = compute(study, options.jobs)
    columns = (*POINT, *TIMES, "fastest", "tie", "bound_by", "busiest_GB", "memory_GB", "least_nic_s", "least_gpu_s")
    files = {"oversubscription.csv": data_csv(rows, columns), "oversubscription.svg": draw(rows)}
    return conclude(HERE, options, table(rows), files, rows)


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
