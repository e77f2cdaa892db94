"""Buy servers and their part of a fabric for one budget, simulate a step on them, and compare samples/s per dollar.

    python studies/equal_cost/plot.py            # write the tables, csv and svg; check expected.json
    python studies/equal_cost/plot.py --update   # replace expected.json by the findings
    python studies/equal_cost/plot.py --quick    # simulate one fabric again, in seconds; write nothing

Reads study.toml and prices.toml. Exits 3 when the findings differ from expected.json.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dessim.cluster import load_cluster
from dessim.cluster.check import describe
from dessim.errors import UsageError
from dessim.files import read_toml
from dessim.results.rows import data_csv
from dessim.results.study import conclude, conclude_quick, run_study, study_parser
from dessim.results.style import house_style, strategy_label
from dessim.results.svg import svg_text
from dessim.sweep.grid import Study, read_study
from dessim.sweep.run import sweep_rows
from dessim.units import format_time

HERE = Path(__file__).parent
SWITCH_PORTS = 64
TIED = 0.99  # from this share of the best on, a fabric is as good as the best
COLORS = ("#0173b2", "#d55e00", "#949494")
MARKERS = "osx"
COLUMNS = (
    *("scenario", "fabric", "strategy", "servers", "gpus", "spent", "fabric_share", "step_time_s", "low_s", "high_s"),
    *("samples_per_s", "samples_per_s_per_dollar", "bound_by"),
)

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fabric:
    """Parts for all `servers` of a fabric: switches, cables with those of NICs, and connected switch ports."""

    name: str
    servers: int
    nics: int
    switches: int
    cables: int
    ports: int

    def per_server(self, price: Mapping[str, Any]) -> tuple[float, float]:
        """Dollars for a server and its part of the fabric, and for that part alone (NICs, ports and cables)."""
        ports = SWITCH_PORTS * self.switches if price.get("whole_switches") else self.ports
        fabric = self.nics * price["nic"] + ports * price["switch_port"] + self.cables * price["cable"]
        return price["server"] + fabric / self.servers, fabric / self.servers


def fabric_of(name: str, value: str) -> Fabric:
    """Count the parts of a fabric whose cables all are as fast as a NIC."""
    local = HERE / value
    cluster = load_cluster(local if local.is_file() else value)
    nics = cluster.n_nodes * cluster.node.nics
    between = cluster.links.capacity[: cluster.wiring.first_server_link]
    cables = round(float(between.sum()) / cluster.node.nic.capacity / 2)
    switches = sum(describe(cluster)["switches"].values())
    return Fabric(name, cluster.n_nodes, nics, switches, cables + nics, 2 * cables + nics)


def purchases(fabrics: Sequence[Fabric], prices: Mapping[str, Any]) -> list[tuple[str, Fabric, int, float, float]]:
    """For each scenario and fabric: the servers that the budget buys, the dollars spent, the fabric's share of them."""
    bought = []
    for scenario in prices["scenario"]:
        price = prices["price"] | scenario
        for fabric in fabrics:
            each, part = fabric.per_server(price)
            servers = int(prices["budget"] // each)
            if not 0 < servers <= fabric.servers:
                raise UsageError(f"the budget buys {servers} servers; {fabric.name} has {fabric.servers}")
            bought.append((scenario["name"], fabric, servers, servers * each, part / each))
    return bought


def compute(study: Study, fabrics: Sequence[Fabric], prices: Mapping[str, Any], jobs: int) -> list[Row]:
    """Simulate what each budget buys; numbers have five digits, as on all machines."""
    bought = purchases(fabrics, prices)
    points = {
        (fabric.name, servers, point.settings["strategy"]): replace(
            point, settings=point.settings | {"gpus": 8 * servers}, labels=point.labels | {"gpus": 8 * servers}
        )
        for _, fabric, servers, _, _ in bought
        for point in study.points
        if point.labels["cluster"] == fabric.name
    }
    simulated = dict(zip(points, sweep_rows(replace(study, points=tuple(points.values())), jobs), strict=True))
    rows = []
    for scenario, fabric, servers, spent, share in bought:
        for name, count, strategy in points:
            if (name, count) == (fabric.name, servers):
                found = simulated[name, count, strategy]
                times = (found[key] for key in ("step_time_s", "low_s", "high_s", "samples_per_s"))
                values = (
                    *(scenario, name, strategy, servers, 8 * servers, round(spent), _round(share)),
                    *map(_round, times),
                    *(_round(found["samples_per_s"] / spent), found["bound_by"]),
                )
                rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _round(value: float) -> float:
    return float(f"{value:.5g}")


def table(fabrics: Sequence[Fabric], rows: Sequence[Row]) -> str:
    """Two Markdown tables: what 128 servers need of each fabric, and what a budget buys, with the best in bold."""
    lines = ["| fabric of 128 servers | switches | connected ports | cables |", "|---|---:|---:|---:|"]
    lines += [f"| {f.name} | {f.switches:,} | {f.ports:,} | {f.cables:,} |" for f in fabrics]
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    lines += [
        "",
        f"| prices | fabric | GPUs | fabric's share | {' | '.join(map(strategy_label, strategies))} |",
        f"|---|---|---:|---:|{'---:|' * len(strategies)}",
    ]
    for scenario in dict.fromkeys(row["scenario"] for row in rows):
        mine = [row for row in rows if row["scenario"] == scenario]
        best = {s: max(r["samples_per_s_per_dollar"] for r in mine if r["strategy"] == s) for s in strategies}
        for fabric in fabrics:
            found = {row["strategy"]: row for row in mine if row["fabric"] == fabric.name}
            cells = []
            for strategy, row in found.items():
                value = row["samples_per_s_per_dollar"]
                bold = "**" if value > TIED * best[strategy] else ""
                cells.append(f"{bold}{value:.3g}{bold} ({format_time(row['step_time_s'], 3)})")
            head = found[strategies[0]]
            lines.append(
                f"| {scenario} | {fabric.name} | {head['gpus']:,} | {100 * head['fabric_share']:.1f} % "
                f"| {' | '.join(cells)} |"
            )
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row]) -> str:
    """Draw samples/s per dollar by fabric as SVG text, a panel for each strategy, with the 80 % intervals."""
    strategies, fabrics, scenarios = (
        list(dict.fromkeys(row[key] for row in rows)) for key in ("strategy", "fabric", "scenario")
    )
    with house_style() as plt:
        figure, panels = plt.subplots(1, len(strategies), figsize=(10.6, 3.9), sharey=True, layout="constrained")
        for axes, strategy in zip(panels, strategies, strict=True):
            for i, (scenario, color, marker) in enumerate(zip(scenarios, COLORS, MARKERS, strict=True)):
                mine = [r for r in rows if (r["strategy"], r["scenario"]) == (strategy, scenario)]
                value = [row["samples_per_s_per_dollar"] for row in mine]
                ends = [
                    [abs(v * (row["step_time_s"] / row[end] - 1)) for v, row in zip(value, mine, strict=True)]
                    for end in ("high_s", "low_s")
                ]
                height = [fabrics.index(row["fabric"]) + 0.22 * (i - 1) for row in mine]
                axes.errorbar(
                    value, height, xerr=ends, color=color, marker=marker, ms=4.5, ls="", lw=0.9, capsize=2,
                    label=scenario,
                )  # fmt: skip
            axes.set_title(strategy_label(strategy), loc="left")
            axes.set(xlim=(0, None), xlabel="samples/s per dollar", ylim=(len(fabrics) - 0.5, -0.5))
            axes.set_yticks(range(len(fabrics)), fabrics)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(scenarios), frameon=False)
        return svg_text(figure, "Samples per second and dollar on eight fabrics")


def main(arguments: list[str] | None = None) -> int:
    parser = study_parser(__doc__, HERE, quick="simulate the rail-only fabric again and compare", jobs=True)
    options = parser.parse_args(arguments)
    prices = read_toml(HERE / "prices.toml")
    fabrics = [fabric_of(**entry) for entry in read_toml(HERE / "study.toml")["grid"]["cluster"]]
    study = read_study(HERE / "study.toml")
    if options.quick:
        again = [fabric for fabric in fabrics if fabric.name == "rail-only"]
        found = compute(study, again, prices, options.jobs)
        return conclude_quick(HERE, found, lambda row: row["fabric"] == "rail-only")
    rows = compute(study, fabrics, prices, options.jobs)
    files = {"equal_cost.csv": data_csv(rows, COLUMNS), "equal_cost.svg": draw(rows)}
    return conclude(HERE, options, table(fabrics, rows), files, rows)


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
