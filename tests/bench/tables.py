"""Format the tables of `make bench` as Markdown, for the terminal and for docs/bench.md."""

from __future__ import annotations

import math
from typing import Any

BEGIN = "<!-- begin: written by make bench -->"
END = "<!-- end -->"


def markdown(result: dict[str, Any]) -> str:
    """Return both tables and a line about the machine."""
    parts = []
    if result["peer"]:
        lines = [
            "| work | SimGrid (C++) | dessim | target | ratio | answers agree to |",
            "|---|---|---|---|---|---|",
        ]
        for row in result["peer"]:
            costs = (_cost(row["simgrid"]), _cost(row["dessim"]), _target(row))
            cells = (row["work"], *costs, _ratio(row), _agreement(row))
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    if result["alone"]:
        lines = ["| work | dessim | target | simulated time |", "|---|---|---|---|"]
        for row in result["alone"]:
            lines.append(f"| {row['work']} | {_cost(row['dessim'])} | {_target(row)} | {_answer(row)} |")
        parts.append("\n".join(lines))
    if result.get("skipped"):
        parts.append(f"Left out of this run: {'; '.join(result['skipped'])}.")
    machine = result["machine"]
    parts.append(
        f"{machine['cpu']}, one of {machine['cores']} cores, load average {machine['load_average']:.1f} at the start; "
        f"Python {machine['python']}, numpy {machine['numpy']}, SimGrid {machine['simgrid']}."
    )
    return "\n\n".join(parts)


def with_tables(page: str, tables: str, begin: str = BEGIN) -> str:
    """Return the page with `tables` in place of the text between `begin` and END."""
    head, rest = page.split(begin)
    return f"{head}{begin}\n\n{tables}\n\n{END}{rest.split(END)[1]}"


def _cost(cost: dict[str, Any] | None) -> str:
    if cost is None:
        return "-"
    runs = "" if cost["runs"] > 1 else ", one run"
    return f"{'> ' if cost['stopped'] else ''}{cost['cpu_s']:.3g} s, {cost['peak_rss_MiB']:.0f} MiB{runs}"


def _ratio(row: dict[str, Any]) -> str:
    if "ratio" not in row:
        return "-"
    at_least = "> " if row["simgrid"]["stopped"] else ""
    return f"{at_least}{row['ratio']:.3g}"


def _agreement(row: dict[str, Any]) -> str:
    if row["problems"]:
        return "**" + "; ".join(row["problems"]) + "**"
    if "worst_finish" in row:
        return f"{row['worst_finish']:.1g} at every finish"
    if "error_against_simgrid" in row:
        return f"{abs(row['error_against_simgrid']):.1g}"
    return "SimGrid did not finish"


def _target(row: dict[str, Any]) -> str:
    parts = []
    if row["limit_s"] is not None:
        parts.append(f"{row['limit_s']:g} s")
    if row["limit_MiB"] is not None:
        parts.append(f"{row['limit_MiB']:g} MiB")
    cost = row["dessim"]
    limit_s = row["limit_s"] or math.inf
    limit_MiB = row["limit_MiB"] or math.inf
    missed = cost["stopped"] or cost["cpu_s"] > limit_s or cost["peak_rss_MiB"] > limit_MiB
    return ", ".join(parts) + ": **missed**" * missed if parts else "-"


def _answer(row: dict[str, Any]) -> str:
    if row["problems"]:
        return "**" + "; ".join(row["problems"]) + "**"
    return f"{row['answer']['time_s'] * 1e3:.9g} ms" if "time_s" in row.get("answer", {}) else "-"
