"""The collectives of a recorded step on 8 V100s, each predicted from the others; and the whole step, replayed.

    python studies/recorded_gpus/plot.py            # writes the table, recorded_gpus.csv and .svg, checks expected.json
    python studies/recorded_gpus/plot.py --update   # and makes what it found the expectation

Reads study.toml. Exits 3 when the median error is beyond its bound, or the findings are not those of expected.json.
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
LOOK = {"all_reduce": ("#0173b2", "o"), "all_to_all": ("#de8f05", "s")}
VARIANTS = {
    "left_out": "calls and latencies fitted, rates as NCCL's source has them",
    "described": "nothing fitted: all as NCCL's source has it",
    "rates_fitted": "rates fitted too",
}


def compute(study: dict[str, Any]) -> dict[str, Any]:
    """Findings: each collective, errors, and the replayed step; numbers to five digits."""
    trace = load_trace(HERE / study["trace"])
    held = hold_against(trace, load_cluster(HERE / study["cluster"]))
    replayed = replay(trace, held.cluster).to_json()
    keys = ("recorded_step_s", "predicted_step_s", "self_replay_error", "compute_s", "exposed_comm_s", "idle_s")
    return _rounded({**held.to_json(), "replay": {key: replayed[key] for key in keys}})


def table(found: dict[str, Any]) -> str:
    """The collectives, then the errors of each way to predict them, then the step, in Markdown."""
    lines = [
        "| collective | bytes a rank | a rank waited (median) | transfer | predicted from the others | error |",
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
        f"Fitted to all eight: {format_time(found['op_overhead_s'])} a call and "
        f"{format_time(0.6e-6 * found['latency_factor'], 3)} a step.",
        f"The step, replayed with that: {format_time(step['predicted_step_s'])}, recorded "
        f"{format_time(step['recorded_step_s'])} ({percent(step['self_replay_error'], signed=True)}).",
    ]
    return "\n".join(lines) + "\n"


def draw(found: dict[str, Any], trace: Trace, bound: float) -> str:
    """The figure as SVG text: predicted against measured, and how little of a kernel's time is transfer."""
    import numpy as np
    from matplotlib.ticker import FixedLocator, NullLocator

    with house_style() as plt:
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.6), width_ratios=(1.0, 1.25))
        span = np.array([6.0, 130.0])
        left.fill_between(span, span * (1 - bound), span * (1 + bound), color=FAINT, alpha=0.25, lw=0)
        left.plot(span, span, color=FAINT, lw=1)
        left.annotate(f"± {percent(bound)}", (62, 48), ha="left", va="top", color=INK)
        for kind, (color, marker) in LOOK.items():
            rows = [row for row in found["collectives"] if row["collective"] == kind]
            at = [1e6 * row["measured_s"] for row in rows]
            left.scatter(at, [1e6 * r["predicted_s"] for r in rows], s=40, c=color, marker=marker, label=kind, zorder=3)
            hollow = {"facecolors": "none", "edgecolors": color, "marker": marker, "zorder": 2}
            left.scatter(at, [1e6 * r["described_s"] for r in rows], s=40, label=f"{kind}, nothing fitted", **hollow)
        left.set(xscale="log", yscale="log", xlim=span, ylim=span)
        for axis in (left.xaxis, left.yaxis):
            axis.set_major_locator(FixedLocator([7, 10, 20, 40, 80]))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter("{x:g}")
        left.set(xlabel="measured transfer (µs)", ylabel="predicted from the others (µs)")
        left.grid(True, axis="both")
        left.legend(loc="upper left", frameon=False, fontsize="small", borderpad=0, handletextpad=0.3)

        names = []
        for place, one in enumerate(matched_collectives(trace)):
            color, marker = LOOK[str(one.collective)]
            kernels = [op.dur_us for op in one.ops.values()]
            label = "kernel of a rank: it waits, too" if place == 0 else ""
            right.scatter(kernels, [place] * len(kernels), s=60, c=INK, marker="|", lw=1, alpha=0.6, label=label)
            right.scatter([one.transfer_us], [place], s=40, c=color, marker=marker, zorder=3)
            names.append(f"{one.collective}, {format_size(max(op.bytes for op in one.ops.values()), 3)}")
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
