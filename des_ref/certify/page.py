"""The certificate as one HTML file that stands alone: nothing is loaded or run, every value is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from des_ref.certify.matrix import EVERY_STRATEGY
from des_ref.certify.show import by_axis, lossy, passed, stale_lines, why
from dessim.files import write_text


def render(found: Mapping[str, Any]) -> str:
    """The page of a summary (show.summary)."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("des_ref"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    results = found["cases"]
    return environment.get_template("certificate.html.j2").render(
        r=found,
        strategies=[s for s in EVERY_STRATEGY if any(r["strategy"] == s for r in results)],
        grids=[_grid(results, ranks) for ranks in dict.fromkeys(r["ranks"] for r in results)],
        optimizers=by_axis(results, "optimizer"),
        stale=[*stale_lines(results), *(f"{r['case']}: {lossy(r)}" for r in results if "codecs" in r)],
        red=[{"name": r["case"], "why": why(r)} for r in results if not passed(r)],
        ops=results[-1].get("ops", []),
        last=results[-1]["case"],
    )


def write_page(path: str | Path, found: Mapping[str, Any]) -> None:
    """Write the page atomically."""
    write_text(path, render(found))


def _grid(results: Sequence[Mapping[str, Any]], ranks: int) -> dict[str, Any]:
    """One number of ranks: a row a model and placement, a cell a strategy, over all optimizers."""
    cells: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for r in results:
        if r["ranks"] == ranks:
            cells.setdefault((r["model"], r["placement"]), {}).setdefault(r["strategy"], []).append(r)
    return {
        "ranks": ranks,
        "rows": [
            {"model": model, "placement": placement, "cells": {s: _cell(found) for s, found in row.items()}}
            for (model, placement), row in sorted(cells.items())
        ],
    }


def _cell(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    exact = all(r.get("equivalent", True) for r in results)
    state = "bad" if not all(map(passed, results)) else "good" if exact else "warn"
    worst = max((r["max_param_diff"] for r in results if "error" not in r), default=None)
    return {"state": state, "worst": "died" if worst is None else f"{worst:.1e}"}
