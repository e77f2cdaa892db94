"""Compare steps and bytes of unequal tables on the lab: predicted from a calibration and few ranks, and measured.

    python studies/uneven_tables/plot.py     # write the tables, uneven_tables.svg and its data from measured.json

`sudo dessim validate --lab --kinds steps --only uneven --save studies/uneven_tables/measured.json` repeats the
measurement. Exits 3 when a step or the bytes of a busiest host break a bound.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dessim.commands.support.guard import worker_bytes
from dessim.files import write_text
from dessim.results.scatter import predicted_against_measured
from dessim.results.study import page
from dessim.results.style import strategy_label
from dessim.units import format_time, percent
from dessim.validate.outcome import Outcome, broken_bounds, summaries
from dessim.validate.request import bounds_of, read_cases
from dessim.validate.run import ValidationRequest, validate
from dessim.validate.step_cases import StepCase, read_steps, step_cases
from dessim.validate.steps import captured_of
from dessim.workload.owners import owners_of
from dessim.workload.strategies import plan

HERE = Path(__file__).parent
FRAME = 1514 / 1448
"""Bytes of a full Ethernet frame for each byte of payload."""
ACK = 66 / (2 * 1448)
"""Bytes of acknowledgements for each byte that is received: one empty frame for two full ones."""
MOST_BYTES_ERROR = 0.03


def busiest_host(case: StepCase, measured: dict[str, Any]) -> tuple[float, float]:
    """Return bytes a step that the busiest host sends: predicted from what it owns, and counted by the kernel."""
    captured = captured_of(case, measured)
    model = captured.job.model
    strategy = plan(case.strategy, model)
    symbols = strategy.symbols(captured.job.symbols(case.workers, case.batch))
    sent, received = worker_bytes(strategy, symbols, owners_of(strategy, model, symbols))
    job = measured["trained"][case.name]
    counted = np.array(job["frames"]) / job["counted_steps"]
    return float((FRAME * sent + ACK * received).max()), float(counted.max())


def steps_table(outcomes: list[Outcome], measured: dict[str, Any]) -> list[str]:
    """Return the lines of a Markdown table: predicted and measured steps."""
    lines = ["| bed | strategy | predicted | measured | error | cores busy |", "|---|---|---:|---:|---:|---:|"]
    for o in outcomes:
        bed, _, strategy = o.name.rpartition(", uneven: ")
        busy = measured["trained"][o.name]["busy"]
        lines.append(
            f"| {bed} | {strategy_label(strategy)} | {format_time(o.predicted_s, 3)} | {format_time(o.measured_s, 3)} "
            f"| {percent(o.error, signed=True)} | {percent(busy)} |"
        )
    return lines


def bytes_table(rows: dict[str, tuple[float, float]]) -> list[str]:
    """Return the lines of a Markdown table: bytes of the busiest host by case."""
    lines = ["| bed | strategy | predicted | counted | error |", "|---|---|---:|---:|---:|"]
    for name, (predicted, counted) in rows.items():
        bed, _, strategy = name.rpartition(", uneven: ")
        lines.append(
            f"| {bed} | {strategy_label(strategy)} | {predicted / 1e6:.3f} MB | {counted / 1e6:.3f} MB "
            f"| {percent(predicted / counted - 1, signed=True)} |"
        )
    return lines


def table(outcomes: list[Outcome], rows: dict[str, tuple[float, float]], measured: dict[str, Any]) -> str:
    """Return the study's Markdown tables."""
    summary = summaries(outcomes)["held_out"]["steps"]
    errors = f"median error {percent(summary.median_error)}, 95th percentile {percent(summary.p95_error)}"
    lines = [f"Measured on {measured['machine']}.", "", f"**Steps** ({summary.n} cases, all held out): {errors}", ""]
    lines += steps_table(outcomes, measured)
    lines += ["", "**Bytes that the busiest host sends in a step**", "", *bytes_table(rows)]
    return "\n".join(lines) + "\n"


def problems(outcomes: list[Outcome], rows: dict[str, tuple[float, float]]) -> list[str]:
    """Return a sentence for each broken bound."""
    wrong = [
        f"{name}: the busiest host sent {counted:.0f} bytes, predicted {predicted:.0f}"
        for name, (predicted, counted) in rows.items()
        if abs(predicted / counted - 1) > MOST_BYTES_ERROR
    ]
    return broken_bounds(outcomes, bounds_of(read_cases())) + wrong


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="output folder (default: this study)")
    options = parser.parse_args(arguments)
    measured = json.loads((HERE / "measured.json").read_text("utf-8"))
    request = ValidationRequest(kinds=["steps"], splits=["held_out"], only="uneven", measured=measured)
    outcomes = validate(request)
    cases = {case.name: case for case in step_cases(read_steps(), ["held_out"], quick=False)}
    rows = {o.name: busiest_host(cases[o.name], measured["steps"]) for o in outcomes if not cases[o.name].servers}
    tables = table(outcomes, rows, measured["steps"])
    write_text(options.out / "README.md", page(HERE, tables))
    predicted_against_measured([o.to_json() for o in outcomes], options.out / "uneven_tables.svg")
    print(tables, end="")
    found = problems(outcomes, rows)
    print(*(f"uneven_tables: {line}" for line in found), sep="\n", end="\n" if found else "", file=sys.stderr)
    return 3 if found else 0


if __name__ == "__main__":
    sys.exit(main())
