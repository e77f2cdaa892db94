"""Simulate strategies over ids a sample, K/(F D) and GPUs on two clusters: which is the fastest, and by how much.

    python studies/crossover/plot.py            # write the tables, crossover.csv and crossover.svg; check expected.json
    python studies/crossover/plot.py --quick    # simulate the points of 8 GPUs anew and compare; writes nothing
    python studies/crossover/plot.py --update   # replace expected.json by the findings

Reads study.toml. Exits 3 when the findings differ from expected.json.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from dessim.cluster import load_cluster
from dessim.results.error_bar import is_tie
from dessim.results.rows import contenders, data_csv
from dessim.results.study import conclude, conclude_quick, run_study, study_parser
from dessim.results.style import INK, house_style, style_of
from dessim.results.svg import svg_text
from dessim.sweep.grid import Study, read_study
from dessim.sweep.journal import OK
from dessim.sweep.run import sweep_rows
from dessim.units import format_time
from dessim.workload.model import load_model

HERE = Path(__file__).parent
QUICK_GPUS = 8
CELL = ("cluster", "gpus", "ids_per_sample", "k_share")
RESULTS = (
    *("step_time_s", "low_s", "high_s", "bound_by", "busiest_worker_bytes", "memory_bytes"),
    *("least_nic_s", "least_gpu_s"),
)
FAMILIES = {
    "des_all_reduce": "DES",
    "des_reduce_scatter": "DES",
    "table_wise": "table-wise",
    "row_all_to_all": "row AllToAll",
    "ps_sync": "servers",
}
COLORS = {family: style_of(strategy).color for strategy, family in reversed(FAMILIES.items())}


def compute(study: Study, jobs: int) -> list[dict[str, Any]]:
    """Simulate the points of the study; return a row for each."""
    rows = sweep_rows(study, jobs)
    clusters = {point.labels["cluster"]: str(point.settings["cluster"]) for point in study.points}
    nic_rate = {label: load_cluster(name).node.nic.rate for label, name in clusters.items()}
    models = {str(point.settings["model"]) for point in study.points}
    sizes = {Path(name).name: size_of(Path(name)) for name in sorted(models)}
    for row in rows:
        row["ids_per_sample"], row["k_share"] = sizes[Path(row["model"]).name]
        row["does_not_fit"] = row["status"] != OK
        if not row["does_not_fit"]:
            least = row["least_step_s"] or {"nic": _least_of_servers(row, nic_rate[row["cluster"]])}
            row |= {f"least_{part}_s": seconds for part, seconds in least.items()}
    return rows


def size_of(path: Path) -> tuple[int, float]:
    """Ids a sample, and K/(F D), of a model file."""
    model = load_model(path)
    k = sum(costs.wire.evaluate(model.symbols(2)) for costs, _ in model.partials)
    return round(model.input.ids_per_sample), float(f"{k / sum(model.widths):.2g}")


def _least_of_servers(row: dict[str, Any], rate: float) -> float:
    """The seconds that the busiest NIC needs for the bytes of a step: that of a server, or of a worker."""
    busiest = max(1.0, row["gpus"] / row["server_count"])  # a server receives what workers send
    return busiest * row["bytes_per_worker"] / 2 / rate


def cells(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The fastest family of each point of the map, its lead over the next family, and the families that may be as fast.

    Rounded to four digits, so that all machines agree. A lower bound of a step never wins.
    """
    found = []
    for _, block in groupby(rows, key=lambda row: tuple(row[key] for key in (*CELL[:2], "model"))):
        at = list(block)
        ranked = sorted(contenders(at), key=lambda row: row["step_time_s"])
        best = ranked[0]
        others = [row for row in ranked if FAMILIES[row["strategy"]] != FAMILIES[best["strategy"]]]
        found.append(
            {
                **{key: best[key] for key in CELL},
                "winner": FAMILIES[best["strategy"]],
                "strategy": best["strategy"],
                "step_time_s": _round(best["step_time_s"]),
                "next": FAMILIES[others[0]["strategy"]],
                "lead": _round(others[0]["step_time_s"] / best["step_time_s"]),
                "ties": list(dict.fromkeys(FAMILIES[row["strategy"]] for row in others if is_tie(best, row))),
                "bound_by": best["bound_by"],
                "least_share": _round(max(best["least_nic_s"], best.get("least_gpu_s", 0.0)) / best["step_time_s"]),
            }
        )
    return found


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def wrong_with(found: list[dict[str, Any]]) -> str:
    """A sentence on a winner that is faster than its busiest NIC or GPU allows; empty if there is none."""
    for cell in found:
        if cell["least_share"] > 1:
            return f"{cell['strategy']} at {[cell[key] for key in CELL]} is faster than its busiest NIC or GPU"
    return ""


def table(found: list[dict[str, Any]]) -> str:
    """The map as a Markdown table: a row for each cluster, number of GPUs and K/(F D), a column for each m."""
    ids = list(dict.fromkeys(cell["ids_per_sample"] for cell in found))
    lines = [
        "| cluster | N | K/(F D) | " + " | ".join(f"{m:,} ids a sample" for m in ids) + " |",
        "|---|---:|---:|" + "---|" * len(ids),
    ]
    keys = ("cluster", "gpus", "k_share")
    for (cluster, gpus, share), block in groupby(found, key=lambda cell: tuple(cell[key] for key in keys)):
        lines.append(f"| {cluster} | {gpus} | {share:g} | {' | '.join(map(_text, block))} |")
    return "\n".join(lines) + "\n"


def _text(cell: dict[str, Any]) -> str:
    step = format_time(cell["step_time_s"], 3)
    if cell["ties"]:
        return f"*tie*: {cell['winner']}, {', '.join(cell['ties'])}, {step}"
    return f"**{cell['winner']}** {step}, {cell['lead']:.2f} x {cell['next']}"


def draw(found: list[dict[str, Any]]) -> str:
    """Draw the map as SVG text: a panel for each cluster and number of GPUs, ties hatched in two colours."""
    from matplotlib.patches import Patch, Rectangle

    clusters = list(dict.fromkeys(cell["cluster"] for cell in found))
    scales = {name: list(dict.fromkeys(c["gpus"] for c in found if c["cluster"] == name)) for name in clusters}
    ids = list(dict.fromkeys(cell["ids_per_sample"] for cell in found))
    shares = list(dict.fromkeys(cell["k_share"] for cell in found))
    with house_style() as plt:
        plt.rcParams["hatch.linewidth"] = 2.5  # wide enough to show the colour of the other strategy
        size = {"figsize": (9.6, 5.4), "sharex": True, "sharey": True}
        figure, panels = plt.subplots(len(clusters), len(scales[clusters[0]]), **size)
        for row, name in zip(panels, clusters, strict=True):
            for axes, gpus in zip(row, scales[name], strict=True):
                for cell in found:
                    if (cell["cluster"], cell["gpus"]) != (name, gpus):
                        continue
                    x, y = ids.index(cell["ids_per_sample"]), shares.index(cell["k_share"])
                    color = COLORS[cell["winner"]]
                    other = COLORS[cell["ties"][0]] if cell["ties"] else color
                    look = {"facecolor": color, "edgecolor": other, "hatch": "//" if cell["ties"] else "", "lw": 0}
                    axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, **look))
                    text = "tie" if cell["ties"] else f"{cell['lead']:.2f} x"
                    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
                    axes.text(x, y, text, ha="center", va="center", size="small", color="#1a1b1c", bbox=box)
                axes.set(xlim=(-0.5, len(ids) - 0.5), ylim=(-0.5, len(shares) - 0.5))
                axes.set_xticks(range(len(ids)), [f"{m:,}" for m in ids])
                axes.set_yticks(range(len(shares)), [f"{share:g}" for share in shares])
                axes.grid(False)
                axes.set_title(f"{name}, N = {gpus}", loc="left")
            row[0].set_ylabel("K / (F D)")
        for axes in panels[-1]:
            axes.set_xlabel("ids a sample")
        won = {cell["winner"] for cell in found} | {name for cell in found for name in cell["ties"]}
        handles = [Patch(color=COLORS[name], label=name) for name in dict.fromkeys(FAMILIES.values()) if name in won]
        handles.append(Patch(facecolor="white", edgecolor=INK, hatch="//", label="tie"))
        figure.legend(handles=handles, loc="outside right center", frameon=False, title="fastest")
        return svg_text(figure, "Fastest strategy")


def quick(study: Study, jobs: int) -> int:
    """Simulate the points of QUICK_GPUS anew, and compare them with expected.json; return the exit code."""
    few = tuple(point for point in study.points if point.settings["gpus"] == QUICK_GPUS)
    found = cells(compute(replace(study, points=few), jobs))
    print(table(found), end="")
    return conclude_quick(HERE, found, lambda cell: cell["gpus"] == QUICK_GPUS)


def main(arguments: list[str] | None = None) -> int:
    parser = study_parser(__doc__, HERE, quick="simulate a part of the points and compare", jobs=True)
    options = parser.parse_args(arguments)

    study = read_study(HERE / "study.toml")
    if options.quick:
        return quick(study, options.jobs)
    rows = compute(study, options.jobs)
    found = cells(rows)
    for row in rows:
        row |= {key: _round(row[key]) for key in RESULTS if isinstance(row.get(key), float)}
    files = {
        "crossover.csv": data_csv(rows, (*CELL, "strategy", "status", *RESULTS)),
        "crossover.svg": draw(found),
    }
    return conclude(HERE, options, table(found), files, found, wrong=wrong_with(found))


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
