"""Time collectives by `auto` and by each other algorithm, over sizes and numbers of GPUs, on three fabrics.

    python studies/collectives/plot.py            # write the table, csv and svg; check expected.json
    python studies/collectives/plot.py --update   # replace expected.json by the findings
    python studies/collectives/plot.py --quick    # time the smallest groups again, in seconds; write nothing

Reads study.toml. Exits 3 when the findings differ from expected.json.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from dessim.cluster import Cluster, load_cluster
from dessim.collectives import ALGORITHMS, Options
from dessim.collectives.closed_forms import bus_bandwidth
from dessim.collectives.nccl.on_cluster import setup_of
from dessim.collectives.nccl.tuner import candidates
from dessim.commands.collective import run_collective
from dessim.files import read_toml
from dessim.results.axes import log_axis
from dessim.results.rows import data_csv
from dessim.results.study import conclude, conclude_quick, run_study, study_parser
from dessim.results.style import house_style
from dessim.results.svg import svg_text
from dessim.sim.fluid.model import layout_of
from dessim.sim.fluid.route_cache import RouteCache
from dessim.trace.schema import Collective
from dessim.units import format_size, format_time, parse_size

HERE = Path(__file__).parent
COLORS = ("#0173b2", "#de8f05", "#029e73")
MARKERS = "os^"
SLOWER = 1.05  # up to this factor another algorithm counts as equally fast
COLUMNS = (
    *("op", "cluster", "gpus", "size_B", "algorithm", "chosen"),
    *("time_s", "low_s", "high_s", "busbw_GBps", "bound_by"),
)

Row = dict[str, Any]


def others(cluster: Cluster, op: Collective, gpus: int, size: float) -> Iterator[tuple[str, str, Options]]:
    """The label, name and options of all that could run in place of `auto`'s choice.

    For an all_reduce of NCCL these are NCCL's own algorithms with each protocol, else the textbook algorithms that fit.
    `direct` is what NCCL's p2p is, without NCCL's costs, and so no alternative to it.
    """
    ranks = np.arange(gpus)
    is_nccl = cluster.transport.nccl is not None
    if is_nccl and op is Collective.ALL_REDUCE:
        for one in candidates(op, size, setup_of(cluster, ranks)):
            yield f"{one.algorithm} {one.protocol.name}", one.algorithm, Options(protocol=one.protocol.name)
        return
    layout = layout_of(cluster, ranks)
    for name, algorithm in ALGORITHMS[op].items():
        if name != "gloo" and not (is_nccl and name == "direct") and not algorithm.unfit(layout):
            yield name, name, Options()


def compute(study: Mapping[str, Any], scales: Sequence[int]) -> list[Row]:
    """Time every collective on these numbers of GPUs: `auto` first, then the others; times have five digits."""
    rows = []
    for fabric in study["cluster"]:
        cluster = load_cluster(fabric["value"])
        routed = RouteCache(cluster)
        for op in map(Collective, study["op"]):
            for gpus in scales:
                for size in map(parse_size, study["size"]):
                    auto = run_collective(cluster, op, gpus, size, routed=routed)
                    low, high = auto.bar.interval(auto.time_s) if auto.bar else (None, None)
                    timed = {auto.algorithm: (auto, low, high)}
                    for label, name, options in others(cluster, op, gpus, size):
                        if label not in timed:
                            one = run_collective(cluster, op, gpus, size, name, routed=routed, options=options)
                            timed[label] = (one, None, None)
                    for label, (one, *ends) in timed.items():
                        busbw = bus_bandwidth(op, gpus, size, one.time_s) / 1e9
                        values = (
                            *(str(op), fabric["name"], gpus, round(size), label, one is auto),
                            *map(_round, (one.time_s, *ends, busbw)),
                            one.bound_by,
                        )
                        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def cases(rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """For each collective, the row of `auto` and that of the fastest algorithm."""
    for _, group in groupby(rows, key=lambda row: [row[key] for key in COLUMNS[:4]]):
        timed = list(group)
        yield timed[0], min(timed, key=lambda row: row["time_s"])


def table(rows: Sequence[Row]) -> str:
    """A Markdown table: the choice of `auto` by size, and the fastest algorithm where that is another."""
    sizes = list(dict.fromkeys(row["size_B"] for row in rows))
    lines = [
        f"| op | fabric | GPUs | {' | '.join(map(format_size, sizes))} |",
        f"|---|---|---:|{'---|' * len(sizes)}",
    ]
    for (op, cluster, gpus), group in groupby(cases(rows), key=lambda case: [case[0][key] for key in COLUMNS[:3]]):
        cells = []
        for auto, best in group:
            cell = f"{auto['algorithm']} {format_time(auto['time_s'], 3)}"
            if auto["time_s"] > SLOWER * best["time_s"]:
                is_clear = auto["low_s"] is not None and best["time_s"] < auto["low_s"]
                other = f"{best['algorithm']} {format_time(best['time_s'], 3)}"
                cell += f"; **{other}**" if is_clear else f"; {other}"
            cells.append(cell)
        lines.append(f"| {op} | {cluster} | {gpus:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row]) -> str:
    """Draw bus bandwidth by size as SVG text, a panel for each op and fabric; crosses are faster algorithms."""
    by_case = list(cases(rows))
    ops, fabrics, scales = (list(dict.fromkeys(auto[key] for auto, _ in by_case)) for key in COLUMNS[:3])
    with house_style() as plt:
        figure, panels = plt.subplots(
            len(ops), len(fabrics), figsize=(10.6, 5.6), sharex=True, sharey=True, squeeze=False, layout="constrained"
        )
        for line, op in zip(panels, ops, strict=True):
            for axes, fabric in zip(line, fabrics, strict=True):
                for gpus, color, marker in zip(scales, COLORS, MARKERS, strict=True):
                    mine = [c for c in by_case if [c[0][key] for key in COLUMNS[:3]] == [op, fabric, gpus]]
                    _line(axes, mine, {"color": color, "marker": marker, "label": f"{gpus:,} GPUs"})
                axes.set_title(f"{op}, {fabric}", loc="left")
                axes.set_xscale("log", base=2)
                sizes = [auto["size_B"] for auto, _ in by_case[: len({auto["size_B"] for auto, _ in by_case})]]
                axes.set_xticks(sizes, [format_size(size) for size in sizes])
                axes.minorticks_off()
        for line in panels:
            line[0].set_ylabel("bus bandwidth (GB/s)")
            log_axis(line[0], "{:,g}".format)
        handles, labels = panels.flat[0].get_legend_handles_labels()
        chosen = dict(zip(labels, handles, strict=True))
        figure.legend(chosen.values(), chosen.keys(), loc="outside lower center", ncols=len(chosen), frameon=False)
        return svg_text(figure, "Bus bandwidth of all_reduce and all_to_all on three fabrics")


def _line(axes: Any, mine: Sequence[tuple[Row, Row]], style: Mapping[str, Any]) -> None:
    """A line of `auto` with its error bars, and crosses where another algorithm is faster."""
    sizes = [auto["size_B"] for auto, _ in mine]
    rate = [auto["busbw_GBps"] for auto, _ in mine]
    ends = [
        [abs(auto["busbw_GBps"] * (auto["time_s"] / (auto[end] or auto["time_s"]) - 1)) for auto, _ in mine]
        for end in ("high_s", "low_s")
    ]
    axes.errorbar(sizes, rate, yerr=ends, ms=4.5, lw=1.3, capsize=2.5, **style)
    faster = [(a["size_B"], b["busbw_GBps"]) for a, b in mine if a["time_s"] > SLOWER * b["time_s"]]
    label = "a faster algorithm" if style["marker"] == MARKERS[0] else None
    axes.plot(*zip(*faster, strict=True) if faster else ([], []), "x", color=style["color"], ms=7, label=label)


def main(arguments: list[str] | None = None) -> int:
    parser = study_parser(__doc__, HERE, quick="time the smallest groups again and compare")
    options = parser.parse_args(arguments)
    study = read_toml(HERE / "study.toml")
    if options.quick:
        scales = study["gpus"][:1]
        return conclude_quick(HERE, compute(study, scales), lambda row: row["gpus"] in scales)
    rows = compute(study, study["gpus"])
    files = {"collectives.csv": data_csv(rows, COLUMNS), "collectives.svg": draw(rows)}
    return conclude(HERE, options, table(rows), files, rows)


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
