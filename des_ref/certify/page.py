"""The certificate as one self-contained HTML file: it loads nothing and runs nothing, and every value is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from des_ref.certify.matrix import EVERY_STRATEGY
from des_ref.certify.scope import CHECKED, NOT_CHECKED, SHARED
from des_ref.certify.show import AS_IN_FILE, DIFFERENCES, by_axis, lossy, passed, split_means, stale_lines, why
from dessim.files import write_text


def render(summary: Mapping[str, Any]) -> str:
    """The page of a summary (show.summary)."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("des_ref"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    results = summary["cases"]
    return environment.get_template("certificate.html.j2").render(
        r=summary,
        strategies=[s for s in EVERY_STRATEGY if any(r["strategy"] == s for r in results)],
        grids=[_grid(results, ranks) for ranks in dict.fromkeys(r["ranks"] for r in results)],
        optimizers=by_axis(results, "optimizer"),
        not_equivalent=[
            *stale_lines([r for r in results if not r.get("equivalent", True)]),
            *(f"{r['case']}: {lossy(r)}" for r in results if "codecs" in r),
            *(f"{r['case']}: {split_means(r)}" for r in results if "split_means" in r),
        ],
        failed=[{"name": r["case"], "why": why(r)} for r in results if not passed(r)],
        checked=CHECKED,
        shared=SHARED,
        not_checked=list(NOT_CHECKED),
        ops=results[-1].get("ops", []),
        last=results[-1]["case"],
    )


def write_page(path: str | Path, summary: Mapping[str, Any]) -> None:
    """Write the page atomically."""
    write_text(path, render(summary))


def _grid(results: Sequence[Mapping[str, Any]], ranks: int) -> dict[str, Any]:
    """The table for one number of ranks: a row per model, placement and pooling, a cell per strategy."""
    cells: dict[tuple[str, str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for r in results:
        if r["ranks"] == ranks:
            pooling = r["pooling"] or AS_IN_FILE
            cells.setdefault((r["model"], r["placement"] or "", pooling), {}).setdefault(r["strategy"], []).append(r)
    return {
        "ranks": ranks,
        "rows": [
            {
                "model": model,
                "placement": placement,
                "pooling": pooling,
                "cells": {s: _cell(cases) for s, cases in row.items()},
            }
            for (model, placement, pooling), row in sorted(cells.items())
        ],
    }


def _cell(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    is_exact = all(r.get("equivalent", True) for r in results)
    if not all(map(passed, results)):
        state = "bad"
    else:
        state = "good" if is_exact else "warn"
    worst = max((r[key] for r in results if "error" not in r for key in DIFFERENCES), default=None)
    return {"state": state, "worst": "died" if worst is None else f"{worst:.1e}"}
