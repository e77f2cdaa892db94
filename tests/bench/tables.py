"""The tables of `make bench`, as Markdown: for the terminal and for docs/bench.md."""

from __future__ import annotations

import math
from typing import Any

BEGIN, END = "<!-- begin: written by make bench -->", "<!-- end -->"


def markdown(result: dict[str, Any]) -> str:
    """Both tables, and the machine they were made on."""
    parts = []
    if result["peer"]:
        lines = [
            "| work | SimGrid (C++) | dessim | aim | ratio | same answer to |",
            "|---|---|---|---|---|---|",
        ]
        for row in result["peer"]:
            costs = (_cost(row["simgrid"]), _cost(row["dessim"]), _aim(row))
            cells = (row["work"], *costs, _ratio(row), _agreement(row))
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    if result["alone"]:
        lines = ["| work | dessim | aim | simulated time |", "|---|---|---|---|"]
        for row in result["alone"]:
            lines.append(f"| {row['work']} | {_cost(row['dessim'])} | {_aim(row)} | {_answer(row)} |")
        parts.append("\n".join(lines))
    if result.get("skipped"):
        parts.append(f"Left out of this run: {'; '.join(result['skipped'])}.")
    about = result["machine"]
    parts.append(
        f"{about['cpu']}, one of {about['cores']} cores, load average {about['load_average']:.1f} at the start; "
        f"Python {about['python']}, numpy {about['numpy']}, SimGrid {about['simgrid']}."
    )
    return "\n\n".join(parts)


def with_tables(page: str, tables: str, begin: str = BEGIN) -> str:
    """The page with what is between `begin` and END replaced."""
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
    least = "> " if row["simgrid"]["stopped"] else ""
    return f"{least}{row['ratio']:.3g}"


def _agreement(row: dict[str, Any]) -> str:
    if row["problems"]:
        return "**" + "; ".join(row["problems"]) + "**"
    if "worst_finish" in row:
        return f"{row['worst_finish']:.1g} at every finish"
    if "error_against_simgrid" in row:
        return f"{abs(row['error_against_simgrid']):.1g}"
    return "SimGrid did not finish"


def _aim(row: dict[str, Any]) -> str:
    parts = []
    if row["limit_s"] is not None:
        parts.append(f"{row['limit_s']:g} s")
    if row["limit_MiB"] is not None:
        parts.append(f"{row['limit_MiB']:g} MiB")
    cost, most_s, most_MiB = row["dessim"], row["limit_s"] or math.inf, row["limit_MiB"] or math.inf
    missed = cost["stopped"] or cost["cpu_s"] > most_s or cost["peak_rss_MiB"] > most_MiB
    return ", ".join(parts) + ": **missed**" * missed if parts else "-"


def _answer(row: dict[str, Any]) -> str:
    if row["problems"]:
        return "**" + "; ".join(row["problems"]) + "**"
    return f"{row['answer']['time_s'] * 1e3:.9g} ms" if "time_s" in row.get("answer", {}) else "-"
