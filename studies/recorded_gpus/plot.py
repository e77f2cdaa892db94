"""Predict each collective of a recorded step on 8 V100s from the others, and replay the whole step.

    python studies/recorded_gpus/plot.py            # write the tables, recorded_gpus.csv and .svg; check expected.json
    python studies/recorded_gpus/plot.py --update   # replace expected.json by the findings

Reads study.toml. Exits 3 when the median error is beyond its bound, or when the findings differ from expected.json.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

from dessim.cluster import load_cluster
from dessim.commands.replay import replay
from dessim.commands.trace_collectives import hold_against
from dessim.results.rows import data_csv
from dessim.results.study import conclude, study_parser
from dessim.results.style import FAINT, INK, house_style
from dessim.results.svg import svg_text
from dessim.trace.io import Trace, load_trace
from dessim.trace.matched import matched_collectives
from dessim.units import format_size, format_time, parse_share, percent

HERE = Path(__file__).parent
COLUMNS = ("name", "bytes", "waiting_median_s", "measured_s", "predicted_s", "error", "described_s", "rates_fitted_s")
MARKERS = {"all_reduce": ("#0173b2", "o"), "all_to_all": ("#de8f05", "s")}
VARIANTS = {
    "left_out": "calls and latencies fitted, rates from NCCL's source",
    "described": "nothing fitted: every constant from NCCL's source",
    "rates_fitted": "rates fitted too",
}


def compute(study: dict[str, Any]) -> dict[str, Any]:
    """Return the findings: each collective, the errors, and the replayed step, rounded to five digits."""
    trace = load_trace(HERE / study["trace"])
    comparison = hold_against(trace, load_cluster(HERE / study["cluster"]))
    replayed = replay(trace, comparison.cluster).to_json()
    keys = ("recorded_step_s", "predicted_step_s", "self_replay_error", "compute_s", "exposed_comm_s", "idle_s")
    return _rounded({**comparison.to_json(), "replay": {key: replayed[key] for key in keys}})


def table(found: dict[str, Any]) -> str:
    """Return Markdown tables of the collectives and of the errors of each method, and a line on the step."""
    lines = [
        "| collective | bytes per rank | wait per rank (median) | transfer | predicted from the others | error |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in found["collectives"]:
        cells = [f"`{row['name']}`", format_size(row["bytes"]), format_time(row["waiting_median_s"])]
        cells += [format_time(row[key]) for key in ("measured_s", "predicted_s")]
        lines.append("| " + " | ".join([*cells, percent(row["error"], signed=True)]) + " |")
    lines += ["", "| prediction of each from the others | median error | worst |", "|---|---:|---:|"]
    for key, label in VARIANTS.items():
        error = found["errors"][key]
        lines.append(f"| {label} | {percent(error['median'])} | {percent(error['worst'])} |")
    step = found["replay"]
    lines += [
        "",
        f"Fitted to all eight: {format_time(found['op_overhead_s'])} per call and "
        f"{format_time(0.6e-6 * found['latency_factor'], 3)} per step.",
        f"The step, replayed with these costs: {format_time(step['predicted_step_s'])}, recorded "
        f"{format_time(step['recorded_step_s'])} ({percent(step['self_replay_error'], signed=True)}).",
    ]
    return "\n".join(lines) + "\n"


def draw(found: dict[str, Any], trace: Trace, bound: float) -> str:
    """Draw as SVG text: predicted against measured, and how little of a kernel's time is transfer."""
    import numpy as np
    from matplotlib.ticker import FixedLocator, NullLocator

    with house_style() as plt:
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.6), width_ratios=(1.0, 1.25))
        span = np.array([6.0, 130.0])
        left.fill_between(span, span * (1 - bound), span * (1 + bound), color=FAINT, alpha=0.25, lw=0)
        left.plot(span, span, color=FAINT, lw=1)
        left.annotate(f"± {percent(bound)}", (62, 48), ha="left", va="top", color=INK)
        for kind, (color, marker) in MARKERS.items():
            rows = [row for row in found["collectives"] if row["collective"] == kind]
            measured = [1e6 * row["measured_s"] for row in rows]
            predicted = [1e6 * row["predicted_s"] for row in rows]
            described = [1e6 * row["described_s"] for row in rows]
            left.scatter(measured, predicted, s=40, c=color, marker=marker, label=kind, zorder=3)
            hollow = {"facecolors": "none", "edgecolors": color, "marker": marker, "zorder": 2}
            left.scatter(measured, described, s=40, label=f"{kind}, nothing fitted", **hollow)
        left.set(xscale="log", yscale="log", xlim=span, ylim=span)
        for axis in (left.xaxis, left.yaxis):
            axis.set_major_locator(FixedLocator([7, 10, 20, 40, 80]))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter("{x:g}")
        left.set(xlabel="measured transfer (µs)", ylabel="predicted from the others (µs)")
        left.grid(True, axis="both")
        left.legend(loc="upper left", frameon=False, fontsize="small", borderpad=0, handletextpad=0.3)

        names = []
        for place, collective in enumerate(matched_collectives(trace)):
            color, marker = MARKERS[str(collective.collective)]
            kernels = [op.dur_us for op in collective.ops.values()]
            label = "kernel of a rank, including its wait" if place == 0 else ""
            right.scatter(kernels, [place] * len(kernels), s=60, c=INK, marker="|", lw=1, alpha=0.6, label=label)
            right.scatter([collective.transfer_us], [place], s=40, c=color, marker=marker, zorder=3)
            names.append(f"{collective.collective}, {format_size(max(op.bytes for op in collective.ops.values()), 3)}")
        right.set_yticks(range(len(names)), names)
        right.set(xscale="log", xlabel="time of kernels, and of the transfer (µs)", ylim=(len(names) - 0.5, -0.5))
        right.xaxis.set_major_formatter("{x:g}")
        right.grid(True, axis="x")
        right.legend(loc="center right", bbox_to_anchor=(1.0, 0.62), frameon=False, fontsize="small", handletextpad=0.1)
        return svg_text(figure, "Collectives of a recorded step on 8 V100s")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main(arguments: list[str] | None = None) -> int:
    options = study_parser(__doc__, HERE).parse_args(arguments)

    study = tomllib.loads((HERE / "study.toml").read_text("utf-8"))
    bound = parse_share(study["bound"])
    found = compute(study)
    files = {
        "recorded_gpus.csv": data_csv(found["collectives"], COLUMNS),
        "recorded_gpus.svg": draw(found, load_trace(HERE / study["trace"]), bound),
    }
    wrong = f"the median error is more than {study['bound']}" if found["errors"]["left_out"]["median"] > bound else ""
    return conclude(HERE, options, table(found), files, found, wrong=wrong)


if __name__ == "__main__":
    sys.exit(main())
