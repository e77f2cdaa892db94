"""Tables of several jobs on one fabric: how each fared, and how busy the fabric was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from dessim.results.style import style_of
from dessim.results.tables import table_of
from dessim.units import format_time, percent

_LEFT = ("strategy", "placement", "bound by")


def jobs_table(jobs: Sequence[Mapping[str, Any]]) -> Table:
    """A line a job, in the order of the page."""
    columns = ("job", "strategy", "GPUs", "placement", "came", "waited", "over", "steps", "step", "alone", "slowdown")
    rows = [
        (
            job["name"],
            style_of(job["strategy"]).label,
            f"{job['gpus']:,}",
            job["placement"],
            format_time(job["arrival_s"]),
            format_time(job["wait_s"]),
            format_time(job["end_s"]),
            f"{job['steps']:,}",
            format_time(job["step_time_s"]),
            format_time(job["alone_step_time_s"]),
            f"{job['slowdown']:.3f}",
            _bounds(job["bounds_s"]),
        )
        for job in jobs
    ]
    return table_of((*columns, "bound by"), rows, left=_LEFT)


def utilisation_table(found: Mapping[str, Any]) -> Table:
    """The share of its capacity that each link class carried, from 0 to the end of the last job."""
    rows = [("GPUs taken", percent(found["gpus"]))]
    rows += [(kind, percent(share)) for kind, share in found["links"].items() if share > 0]
    return table_of(("fabric", "used"), rows)


def _bounds(seconds: Mapping[str, float]) -> str:
    """`leaf_up 61 %, compute 30 %`: what took the most of a step, at most two."""
    total = sum(seconds.values())
    return ", ".join(f"{bound} {percent(part / total)}" for bound, part in list(seconds.items())[:2] if part > 0)
