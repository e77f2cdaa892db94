"""Predict each collective of a recorded step on 8 V100s with the shipped NCCL transport, and replay the whole step.

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
from dessim.commands.trace_collectives import predict_collectives
from dessim.results.error_bar import interval_text
from dessim.results.rows import data_csv
from dessim.results.study import conclude, study_parser
from dessim.results.style import FAINT, INK, house_style
from dessim.results.svg import svg_text
from dessim.trace.io import Trace, load_trace
from dessim.trace.matched import matched_collectives
from dessim.units import format_size, format_time, parse_share, percent

HERE = Path(__file__).parent
COLUMNS = ("name", "bytes", "algorithm", "waiting_median_s", "measured_s", "predicted_s", "low_s", "high_s", "error")
MARKERS = {"all_reduce": ("#0173b2", "o"), "all_to_all": ("#de8f05", "s")}


def compute(study: dict[str, Any]) -> dict[str, Any]:
    """Return the findings: each collective, the errors, and the replayed step, rounded to five digits."""
    trace = load_trace(HERE / study["trace"])
    comparison = predict_collectives(trace, load_cluster(HERE / study["cluster"]))
    replayed = replay(trace, comparison.cluster).to_json()
    keys = ("recorded_step_s", "predicted_step_s", "self_replay_error", "compute_s", "exposed_comm_s", "idle_s")
    found = comparison.to_json()
    collectives = [
        {**op, "low_s": op["interval"]["low_s"], "high_s": op["interval"]["high_s"]} for op in found.pop("collectives")
    ]
    kept = {key: found[key] for key in ("cluster", "n", "median_error", "worst_error", "covered")}
    rows = [{key: op[key] for key in ("collective", *COLUMNS)} for op in collectives]
    return _rounded({**kept, "collectives": rows, "replay": {key: replayed[key] for key in keys}})


def table(found: dict[str, Any]) -> str:
    """Return a Markdown table of the collectives, and lines on the errors and on the step."""
    head = ("collective", "bytes per rank", "NCCL runs", "wait per rank (median)", "transfer", "predicted")
    lines = ["| " + " | ".join((*head, "80 % interval", "error")) + " |", "|---|---:|---|---:|---:|---:|---:|---:|"]
    for row in found["collectives"]:
        cells = [f"`{row['name']}`", format_size(row["bytes"]), row["algorithm"]]
        cells += [format_time(row[key]) for key in ("waiting_median_s", "measured_s", "predicted_s")]
        cells += [interval_text(row), percent(row["error"], signed=True)]
        lines.append("| " + " | ".join(cells) + " |")
    step = found["replay"]
    lines += [
        "",
        f"Median error {percent(found['median_error'])}, worst {percent(found['worst_error'])}; "
        f"{percent(found['covered'])} within their intervals.",
        f"The step, replayed: {format_time(step['predicted_step_s'])}, recorded "
        f"{format_time(step['recorded_step_s'])} ({percent(step['self_replay_error'], signed=True)}).",
    ]
    return "\n".join(lines) + "\n"


def draw(found: dict[str, Any], trace: Trace, bound: float) -> str:
    """Draw as SVG text: predicted against measured, and how little of a kernel's time is transfer."""
    import numpy as np
    from matplotlib.ticker import FixedLocator, NullLocator

    with house_style() as plt:
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.6), width_ratios=(1.0, 1.25))
        span = np.array([5.0, 130.0])
        left.fill_between(span, span * (1 - bound), span * (1 + bound), color=FAINT, alpha=0.25, lw=0)
        left.plot(span, span, color=FAINT, lw=1)
        left.annotate(f"± {percent(bound)}", (62, 48), ha="left", va="top", color=INK)
        for kind, (color, marker) in MARKERS.items():
            rows = [row for row in found["collectives"] if row["collective"] == kind]
            measured = [1e6 * row["measured_s"] for row in rows]
            predicted = [1e6 * row["predicted_s"] for row in rows]
            ends = [[1e6 * abs(row[end] - row["predicted_s"]) for row in rows] for end in ("low_s", "high_s")]
            left.errorbar(measured, predicted, ends, fmt="none", ecolor=color, elinewidth=1, alpha=0.6, zorder=2)
            left.scatter(measured, predicted, s=40, c=color, marker=marker, label=kind, zorder=3)
        left.set(xscale="log", yscale="log", xlim=span, ylim=span)
        for axis in (left.xaxis, left.yaxis):
            axis.set_major_locator(FixedLocator([7, 10, 20, 40, 80]))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter("{x:g}")
        left.set(xlabel="measured transfer (µs)", ylabel="predicted (µs), with 80 % interval")
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
    wrong = f"the median error is more than {study['bound']}" if found["median_error"] > bound else ""
    return conclude(HERE, options, table(found), files, found, wrong=wrong)


if __name__ == "__main__":
    sys.exit(main())
