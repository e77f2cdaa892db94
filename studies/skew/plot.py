"""Bytes that hot rows, deduplication, look-ahead and a cache save, by the skew of ids: recorded, and by formula.

    python studies/skew/plot.py            # from skew.csv: writes the tables and skew.svg, checks expected.json
    python studies/skew/plot.py --record   # trains every case anew for it, on groups of 4 and 8 processes
    python studies/skew/plot.py --update   # makes what was found the expectation

Reads study.toml; record.py is what the processes run. Exits 3 when a recorded op is not of its formula's bytes, or when
the findings are not those of expected.json.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dessim.errors import DessimError
from dessim.files import read_toml
from dessim.results.rows import data_csv
from dessim.results.study import conclude, run_study, study_parser
from dessim.results.style import FAINT, INK, house_style, strategy_label
from dessim.results.svg import svg_text
from dessim.workload.ids import ZipfLaw
from dessim.workload.model import load_model

HERE = Path(__file__).parent
CASE = ("skew", "workers", "strategy")
COUNTS = ("sent_bytes", "expected_bytes", "copied_bytes", "expected_copied_bytes", "worker_ids", "owner_ids")
COLUMNS = (*CASE, *COUNTS, "mismatches")
EVERY_ID, EVERYWHERE, HOST = "every id", "every id, everywhere", "host"  # what is no strategy of its own


def compute(study: Path) -> list[dict[str, Any]]:
    """A row a case, from a group of processes for each number of workers."""
    settings = read_toml(study)
    with tempfile.TemporaryDirectory() as scratch:
        lines = Path(scratch) / "rows.jsonl"
        for workers in settings["workers"]:
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
            command = [*launcher, str(HERE / "record.py"), "--study", str(study), str(lines)]
            done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
            if done.returncode:
                raise DessimError(f"record.py on {workers} processes failed (exit {done.returncode}): see above")
        return [json.loads(line) for line in lines.read_text("utf-8").splitlines()]


def sorted_rows(study: Mapping[str, Any], rows: pd.DataFrame) -> pd.DataFrame:
    """In the order of the study file."""
    order = [study["skews"], study["workers"], [s["name"] for s in study["strategies"]]]
    keys = [[known.index(row[key]) for key, known in zip(CASE, order, strict=True)] for _, row in rows.iterrows()]
    return rows.iloc[sorted(range(len(keys)), key=keys.__getitem__)].reset_index(drop=True)


def without(study: Mapping[str, Any], rows: pd.DataFrame, case: Mapping[str, Any], against: str) -> tuple[float, float]:
    """Bytes that a case is held against: as counted or recorded, and by formula."""
    model, n = load_model(study["model"]), case["workers"]
    if against in (EVERY_ID, EVERYWHERE):
        # Each occurrence asks for its row and returns its gradient, or goes to everyone: no data decide that.
        sent = (n - 1) / n * study["batch_per_worker"] * model.input.ids_per_sample * (2 * 4 * model.row_width + 8)
        return (sent, sent) if against == EVERY_ID else (n * sent, n * sent)
    if against == HOST:
        # Each different row of the batch comes from its owner's host and goes back, in every step.
        row = 2 * 4 * (model.row_width + model.row_slots)
        law = ZipfLaw(study["vocabulary"], case["skew"], model.input.fields, offset=0.5)
        draws = n * study["batch_per_worker"] * model.input.ids_per_sample
        return row * case["owner_ids"], row * law.unique(draws) / n
    other = rows[(rows["skew"] == case["skew"]) & (rows.workers == n) & (rows.strategy == against)].iloc[0]
    return float(other.sent_bytes), float(other.expected_bytes)


def findings(study: Mapping[str, Any], rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Per case, in the order of the rows: bytes, and the share that it saves, as recorded and by formula."""
    against = {s["name"]: s["against"] for s in study["strategies"]}
    found = []
    for case in rows.to_dict("records"):
        other = against[case["strategy"]]
        kind = "copied" if other == HOST else "sent"
        recorded, by_formula = (
            case[f"{kind}_bytes"],
            case["expected_bytes" if kind == "sent" else "expected_copied_bytes"],
        )
        without_recorded, without_formula = without(study, rows, case, other)
        found.append(
            {key: case[key] for key in CASE}
            | {"against": other, "bytes": int(recorded), "by_formula": round(by_formula)}
            | {"saved": round(1 - recorded / without_recorded, 4)}
            | {"saved_by_formula": round(1 - by_formula / without_formula, 4)}
        )
    return found


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Equal, shares to 2e-3: on another machine a last digit of a power may turn one drawn id into the next."""
    about = (*CASE, "against")
    if [[f[key] for key in about] for f in found] != [[f[key] for key in about] for f in expected]:
        return False
    pairs = zip(found, expected, strict=True)
    return all(abs(a[key] - b[key]) < 2e-3 for a, b in pairs for key in ("saved", "saved_by_formula"))


def _percent(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:.1f} %".replace("-", "−")


def _against(name: str) -> str:
    """The words for what a strategy is compared with: another strategy, or one of three cases without an option."""
    return "no cache" if name == HOST else strategy_label(name)


def table(study: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """A table in Markdown for each number of workers: KiB a worker a step, and what is saved, by skew."""
    red = int((rows.mismatches > 0).sum())
    verdict = (
        "of their formulas' bytes in all of them" if not red else f"**not** of their formulas' bytes in {red} of them"
    )
    lines = [f"{len(rows)} cases of {study['steps']} steps; all collectives and copies are {verdict}.", ""]
    found = {tuple(f[key] for key in CASE): f for f in findings(study, rows)}
    for n in study["workers"]:
        lines += [
            f"**{n} workers**: KiB that a worker sends, or copies, in a step; saved as recorded and by formula",
            "",
        ]
        heads = [f"Zipf {skew:g}, KiB | saved | by formula" for skew in study["skews"]]
        lines += [f"| strategy | against | {' | '.join(heads)} |", f"|---|---|{'---:|' * 3 * len(heads)}"]
        for strategy in study["strategies"]:
            cells = []
            for skew in study["skews"]:
                f = found[skew, n, strategy["name"]]
                cells.append(f"{f['bytes'] / 1024:,.0f} | {_percent(f['saved'])} | {_percent(f['saved_by_formula'])}")
            lines.append(
                f"| {strategy_label(strategy['name'])} | {_against(strategy['against'])} | {' | '.join(cells)} |"
            )
        lines.append("")
    return "\n".join(lines)


@dataclass(frozen=True)
class Panel:
    """One comparison: strategies whose name contains one of `with_any` and none of `without`."""

    title: str
    with_any: tuple[str, ...]
    without: tuple[str, ...] = ()

    def shows(self, strategy: str) -> bool:
        return any(word in strategy for word in self.with_any) and not any(word in strategy for word in self.without)


PANELS = (
    Panel("hot rows, against none", with_any=("hot_rows",), without=("look_ahead",)),
    Panel("look-ahead, against none", with_any=("look_ahead",)),
    Panel(
        "each row sent once, against once per id",
        with_any=("row_all_to_all", "row_all_gather", "ps_sync"),
        without=("+",),
    ),
    Panel("cached rows between host and GPU, against none", with_any=("cache_rows",)),
)
COLORS = ("#0173b2", "#de8f05", "#029e73")
MARKERS = ("o", "s")  # by number of workers
DASHES = ("-", "--")
LEGEND_TITLE = "points: recorded; lines: by formula"


def draw(study: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """The figure as SVG text: bytes saved against skew, one panel per option."""
    found = findings(study, rows)
    names = [strategy["name"] for strategy in study["strategies"]]
    with house_style() as plt:
        figure, grid = plt.subplots(2, 2, figsize=(9.2, 7.2))
        for axes, panel in zip(grid.flat, PANELS, strict=True):
            _draw_panel(axes, panel, [name for name in names if panel.shows(name)], study, found)
        for axes in grid[:, 0]:
            axes.set_ylabel("bytes saved (%)")
        handles = [
            plt.Line2D([], [], color=INK, marker=marker, ls=dash, ms=5, lw=1.2, label=f"{n} workers")
            for n, marker, dash in zip(study["workers"], MARKERS, DASHES, strict=False)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, title=LEGEND_TITLE)
        return svg_text(figure, "Bytes saved against the skew of ids")


def _draw_panel(
    axes: Any, panel: Panel, names: list[str], study: Mapping[str, Any], found: list[dict[str, Any]]
) -> None:
    """One panel: a colour per strategy, a marker and a dash per number of workers."""
    for name, color in zip(names, COLORS, strict=False):
        for n, marker, dash in zip(study["workers"], MARKERS, DASHES, strict=False):
            cases = [f for f in found if f["strategy"] == name and f["workers"] == n]
            skews = [f["skew"] for f in cases]
            label = strategy_label(name) if n == study["workers"][0] else None
            axes.plot(skews, [100 * f["saved_by_formula"] for f in cases], dash, color=color, lw=1.2)
            axes.plot(skews, [100 * f["saved"] for f in cases], marker, color=color, ms=5, label=label)
    axes.axhline(0, color=FAINT, lw=0.8)
    axes.set_title(panel.title, loc="left")
    axes.set(xlabel="Zipf exponent of the ids", xticks=study["skews"])
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def main(arguments: list[str] | None = None) -> int:
    parser = study_parser(__doc__, HERE)
    parser.add_argument("--record", action="store_true", help="train every case anew (two minutes on two cores)")
    options = parser.parse_args(arguments)

    file = HERE / "study.toml"
    study = read_toml(file)
    text = data_csv(compute(file), COLUMNS) if options.record else (HERE / "skew.csv").read_text("utf-8")
    rows = sorted_rows(study, pd.read_csv(io.StringIO(text)))
    red, files = rows[rows.mismatches > 0], {"skew.csv": text, "skew.svg": draw(study, rows)}
    unplanned = f"recorded is not planned in\n{red.to_string(index=False)}" if len(red) else ""
    return conclude(HERE, options, table(study, rows), files, findings(study, rows), same, unplanned)


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
