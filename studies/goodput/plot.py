"""Simulate the goodput of jobs of 64 to 65,536 GPUs that write checkpoints, and the best time between two of them.

    python studies/goodput/plot.py            # write the tables, goodput.csv and goodput.svg; check expected.json
    python studies/goodput/plot.py --update   # replace expected.json by the findings
    python studies/goodput/plot.py --quick    # simulate the largest job again, in seconds; write nothing

Reads study.toml. Exits 3 when the findings differ from expected.json.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from dessim.files import read_toml
from dessim.results.axes import gpu_axis
from dessim.results.rows import data_csv
from dessim.results.study import conclude, conclude_quick, run_study, study_parser
from dessim.results.style import house_style
from dessim.results.svg import svg_text
from dessim.sim.faults.goodput import (
    Machine,
    best_interval,
    daly_goodput,
    daly_interval,
    estimate,
    young_interval,
)
from dessim.units import parse_time

HERE = Path(__file__).parent
STUDENT_T = {5: 2.776}
"""The 97.5 % quantile of Student's t, by the number of seeds of a mean."""
DAY_S = 86_400.0
COLORS = ("#d55e00", "#0173b2", "#029e73", "#56b4e9", "#cc78bc")
MARKERS = "sov^D"
COLUMNS = (
    *("case", "gpus", "between_failures_s", "best_interval_s", "best_interval_low_s", "best_interval_high_s"),
    *("young_interval_s", "daly_interval_s", "goodput_best", "goodput_daly_interval", "margin_95", "daly_model"),
    *("checkpoint_share", "lost_share", "restart_share"),
)

Row = dict[str, Any]


def machine_of(study: Mapping[str, Any], case: Mapping[str, Any], gpus: int) -> Machine:
    """The job on `gpus` GPUs of a case of study.toml."""
    return Machine(
        nodes=gpus // study["gpus_per_node"],
        mtbf=parse_time(case["mtbf"]),
        checkpoint=parse_time(case["checkpoint"]),
        restart=parse_time(study["restart"]),
    )


def compute(study: Mapping[str, Any], scales: Sequence[int]) -> list[Row]:
    """Simulate every case at these `scales` in GPUs, with every seed; numbers have five digits, as on all machines."""
    rows = []
    for case in study["case"]:
        for gpus in scales:
            machine = machine_of(study, case, gpus)
            days = study["failures"] * machine.between_failures / DAY_S
            daly = daly_interval(machine)
            best = [best_interval(machine, days, study["runs"], seed) for seed in study["seeds"]]
            at_best = [
                estimate(machine, interval, days, runs=study["runs"], seed=seed)
                for interval, seed in zip(best, study["seeds"], strict=True)
            ]
            at_daly = [estimate(machine, daly, days, runs=study["runs"], seed=seed) for seed in study["seeds"]]
            goodput = [found.goodput for found in at_daly]
            values = (
                *(case["name"], gpus, machine.between_failures, fmean(best), min(best), max(best)),
                *(young_interval(machine), daly, fmean(found.goodput for found in at_best), fmean(goodput)),
                STUDENT_T[len(goodput)] * stdev(goodput) / len(goodput) ** 0.5,
                daly_goodput(machine, daly),
                *(fmean(getattr(found, part) for found in at_daly) for part in COLUMNS[-3:]),
            )
            rows.append({key: _round(value) for key, value in zip(COLUMNS, values, strict=True)})
    return rows


def _round(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def span(seconds: float) -> str:
    """A time with three digits, in the unit of people: `2.5 h`."""
    for unit, length in (("d", DAY_S), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def table(rows: Sequence[Row]) -> str:
    """A Markdown table: intervals, goodput at Daly's interval, and where the rest of the time goes."""
    lines = [
        "| case | GPUs | a failure every | best interval, simulated | Young | Daly | goodput | Daly's model "
        "| checkpoints | lost work | restarts |",
        f"|---|---:|{'---:|' * 9}",
    ]
    for row in rows:
        times = [span(row[key]) for key in ("between_failures_s", "best_interval_s", *COLUMNS[6:8])]
        ends = "{} to {}".format(*(span(row[f"best_interval_{end}_s"]) for end in ("low", "high")))
        shares = " | ".join(f"{100 * row[key]:.2f} %" for key in ("daly_model", *COLUMNS[-3:]))
        lines.append(
            f"| {row['case']} | {row['gpus']:,} | {times[0]} | {times[1]} ({ends}) | {times[2]} | {times[3]} "
            f"| {100 * row['goodput_daly_interval']:.2f} ± {100 * row['margin_95']:.2f} % | {shares} |"
        )
    return "\n".join(lines) + "\n"


def draw(study: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Draw goodput and intervals by GPUs as SVG text: points are simulated, lines are Daly's formulas."""
    scales = study["gpus"]
    size = study["gpus_per_node"]
    nodes = np.geomspace(scales[0] / size, scales[-1] / size, 60).round().astype(int)
    dense = (size * np.unique(nodes)).tolist()
    with house_style() as plt:
        figure, (left, right) = plt.subplots(1, 2, figsize=(10.4, 3.7), layout="constrained")
        for case, color, marker in zip(study["case"], COLORS, MARKERS, strict=True):
            mine = [row for row in rows if row["case"] == case["name"]]
            gpus = [row["gpus"] for row in mine]
            machines = [machine_of(study, case, n) for n in dense]
            intervals = [daly_interval(machine) for machine in machines]
            model = [100 * daly_goodput(m, interval) for m, interval in zip(machines, intervals, strict=True)]
            style = {"color": color, "marker": marker, "ms": 5, "ls": "", "capsize": 3}
            left.plot(dense, model, color=color, lw=1.2)
            left.errorbar(
                gpus,
                [100 * row["goodput_daly_interval"] for row in mine],
                yerr=[100 * row["margin_95"] for row in mine],
                label=case["name"],
                **style,
            )
            best = [row["best_interval_s"] / 60 for row in mine]
            ends = [
                [abs(row[f"best_interval_{end}_s"] - row["best_interval_s"]) / 60 for row in mine]
                for end in ("low", "high")
            ]
            right.plot(dense, [interval / 60 for interval in intervals], color=color, lw=1.2)
            right.errorbar(gpus, best, yerr=ends, **style)
        left.set(ylabel="goodput (%)", ylim=(0, 102))
        right.set_yscale("log")
        right.yaxis.set_major_formatter("{x:,g}")
        right.set_ylabel("best time between checkpoints (min)")
        for axes in (left, right):
            gpu_axis(axes, scales)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside right center", frameon=False,
            title="MTBF of a node;\ntime of a checkpoint", alignment="left",
        )  # fmt: skip
        return svg_text(figure, "Goodput and the best time between checkpoints, by GPUs")


def main(arguments: list[str] | None = None) -> int:
    parser = study_parser(__doc__, HERE, quick="simulate the largest job again and compare")
    options = parser.parse_args(arguments)
    study = read_toml(HERE / "study.toml")
    if options.quick:
        scales = study["gpus"][-1:]
        return conclude_quick(HERE, compute(study, scales), lambda row: row["gpus"] in scales)
    rows = compute(study, study["gpus"])
    files = {"goodput.csv": data_csv(rows, COLUMNS), "goodput.svg": draw(study, rows)}
    return conclude(HERE, options, table(rows), files, rows)


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
