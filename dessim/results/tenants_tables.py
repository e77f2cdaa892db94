"""Tables of several jobs on one fabric: when each ran and how much slower than alone, and how busy the fabric was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from dessim.results.error_bar import interval_text
from dessim.results.fitted_table import FittedTable
from dessim.results.labels import bound_label, link_label
from dessim.results.style import strategy_label
from dessim.results.tables import table_of
from dessim.units import format_time, percent

_BOUNDS_SHOWN = 2


def jobs_table(jobs: Sequence[Mapping[str, Any]]) -> FittedTable:
    """One line per job, in the order of the page."""
    columns = ("job", "strategy", "GPUs", "placement", "arrival", "wait", "end", "steps", "step")
    rows = [
        (
            job["name"],
            strategy_label(job["strategy"]),
            f"{job['gpus']:,}",
            job["placement"],
            format_time(job["arrival_s"]),
            format_time(job["wait_s"]),
            format_time(job["end_s"]),
            f"{job['steps']:,}",
            format_time(job["step_time_s"]),
            interval_text(job["interval"]) or "not known",
            format_time(job["alone_step_time_s"]),
            f"{job['slowdown']:.3f}",
            _largest_bounds(job["bounds_s"]),
        )
        for job in jobs
    ]
    return table_of(
        (*columns, "80 % interval", "step alone", "slowdown", "bound by"),
        rows,
        left=("strategy", "placement", "bound by"),
        folds={"strategy": 20, "bound by": 24},
        drops=("80 % interval", "arrival", "end", "steps", "step alone", "placement", "strategy", "wait"),
    )


def utilisation_table(utilisation: Mapping[str, Any]) -> Table:
    """The share of its capacity that each link class carried, from time 0 to the end of the last job."""
    rows = [("GPUs allocated", percent(utilisation["gpus"]))]
    rows += [
        (link_label(link_class), percent(share)) for link_class, share in utilisation["links"].items() if share > 0
    ]
    return table_of(("fabric", "mean use"), rows)


def _largest_bounds(seconds: Mapping[str, float]) -> str:
    """`compute 61 %, latency 30 %`: the largest parts of a step; `seconds` are in descending order."""
    total = sum(seconds.values())
    largest = list(seconds.items())[:_BOUNDS_SHOWN]
    # A label may contain a comma, as "NIC, sending" does.
    return "; ".join(f"{bound_label(bound)} {percent(part / total)}" for bound, part in largest if part > 0)
