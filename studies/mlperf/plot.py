"""Predict measured training steps of servers of GPUs, with one factor for each software fitted to one reading.

    python studies/mlperf/plot.py            # write the tables, mlperf.csv and mlperf.svg; check expected.json
    python studies/mlperf/plot.py --update   # replace expected.json by the findings

Reads study.toml. Exits 3 when other readings exceed their bound than those it names, or when the findings differ from
expected.json.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from steps import Reading, fitted_factor, read  # noqa: E402

from dessim.results.rows import data_csv  # noqa: E402
from dessim.results.study import conclude, study_parser  # noqa: E402
from dessim.results.style import FAINT, INK, house_style  # noqa: E402
from dessim.results.svg import svg_text  # noqa: E402
from dessim.units import format_time, parse_share, percent  # noqa: E402

PARTS = ("products_s", "tables_s", "other_s", "exposed_comm_s")
COLUMNS = ("software", "name", "fitted", "measured_s", "predicted_s", "error", *PARTS)
MARKERS = {"HugeCTR": ("#0173b2", "o"), "PyTorch": ("#de8f05", "s")}


def compute(study: dict[str, Any]) -> dict[str, Any]:
    """Return the findings: the factor of each software, and its readings, rounded to five digits."""
    factors, rows = {}, []
    for software in study["software"]:
        readings = [read(software, entry) for entry in software["readings"]]
        (reference,) = (reading for reading in readings if reading.is_fitted)
        kind = software["factor"]
        factor = fitted_factor(lambda f, r=reference, k=kind: r.step(f, k).step_time_s, reference.seconds)
        factors[software["name"]] = _rounded(factor)
        rows += [_row(software["name"], reading, factor, kind) for reading in readings]
    return {"factors": factors, "readings": rows}


def _row(software: str, reading: Reading, factor: float, kind: str) -> dict[str, Any]:
    step = reading.step(factor, kind)
    ops = [op for ops in reading.compute[:1] for op in ops.values()]
    products = sum(op.products for op in ops) * (factor if kind == "compute" else 1)
    tables = sum(op.rest for op in ops if op.is_table) * factor
    others = sum(op.rest for op in ops if not op.is_table) * factor
    values = {
        "measured_s": reading.seconds,
        "predicted_s": step.step_time_s,
        "error": step.step_time_s / reading.seconds - 1,
        "products_s": products,
        "tables_s": tables,
        "other_s": others,
        "exposed_comm_s": step.exposed_comm_s,
    }
    rounded = {key: _rounded(value) for key, value in values.items()}
    if reading.is_fitted:
        rounded["error"] = 0.0
    return {"software": software, "name": reading.name, "fitted": reading.is_fitted, **rounded}


def table(study: dict[str, Any], found: dict[str, Any]) -> str:
    """Return a Markdown table of the readings for each software, with the factor below it."""
    lines = []
    for software in study["software"]:
        name = software["name"]
        lines += [
            f"**{name}**, {software['model']}, error bound {software['bound']}:",
            "",
            "| reading | measured | predicted | error | products | tables | other compute | exposed communication |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for row in found["readings"]:
            if row["software"] == name:
                error = "fitted" if row["fitted"] else percent(row["error"], signed=True)
                times = [format_time(row[key], 3) for key in ("measured_s", "predicted_s")]
                parts = [format_time(row[key], 3) for key in PARTS]
                lines.append("| " + " | ".join([row["name"], *times, error, *parts]) + " |")
        what = {"compute": "all compute", "beside_products": "all compute but products"}[software["factor"]]
        lines += ["", f"Factor on {what}: {found['factors'][name]:.3g}.", ""]
    return "\n".join(lines[:-1]) + "\n"


def beyond(study: dict[str, Any], found: dict[str, Any]) -> str:
    """Return what is wrong with the readings that exceed their bound; empty where they are those of study.toml."""
    problems = []
    for software in study["software"]:
        bound = parse_share(software["bound"])
        rows = [row for row in found["readings"] if row["software"] == software["name"]]
        missed = {row["name"] for row in rows if abs(row["error"]) > bound}
        if missed != set(software["missed"]):
            problems.append(f"{software['name']}: beyond {software['bound']}: {', '.join(sorted(missed)) or 'none'}")
    return "; ".join(problems)


def draw(found: dict[str, Any]) -> str:
    """Draw predicted against measured steps as SVG text."""
    import numpy as np
    from matplotlib.ticker import FixedLocator, NullLocator

    with house_style() as plt:
        figure, axes = plt.subplots(figsize=(5.2, 4.2))
        span = np.array([1.5, 32.0])
        axes.fill_between(span, span * 0.85, span * 1.15, color=FAINT, alpha=0.3, lw=0)
        axes.plot(span, span, color=FAINT, lw=1)
        axes.annotate("± 15 %", (24, 19), ha="left", va="top", color=INK)
        for name, (color, marker) in MARKERS.items():
            for fitted, face in ((False, color), (True, "none")):
                rows = [row for row in found["readings"] if row["software"] == name and row["fitted"] is fitted]
                points = [[1e3 * row[key] for row in rows] for key in ("measured_s", "predicted_s")]
                label = f"{name}, {'fitted' if fitted else 'predicted'}"
                axes.scatter(*points, s=40, marker=marker, facecolors=face, edgecolors=color, label=label, zorder=3)
        axes.set(xscale="log", yscale="log", xlim=span, ylim=span)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(FixedLocator([2, 4, 8, 16]))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter("{x:g}")
        axes.set(xlabel="measured step (ms)", ylabel="predicted step (ms)")
        axes.grid(True, axis="both")
        axes.legend(loc="upper left", frameon=False, fontsize="small")
        return svg_text(figure, "Measured and predicted training steps")


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def main(arguments: list[str] | None = None) -> int:
    options = study_parser(__doc__, HERE).parse_args(arguments)
    study = tomllib.loads((HERE / "study.toml").read_text("utf-8"))
    found = compute(study)
    files = {"mlperf.csv": data_csv(found["readings"], COLUMNS), "mlperf.svg": draw(found)}
    return conclude(HERE, options, table(study, found), files, found, wrong=beyond(study, found))


if __name__ == "__main__":
    sys.exit(main())
