"""Compare the bytes that hot rows, deduplication, look-ahead and a cache save, by skew: recorded, and by formula.

    python studies/skew/plot.py            # write the tables and skew.svg from skew.csv; check expected.json
    python studies/skew/plot.py --record   # record every case first, on groups of 4 and 8 processes
    python studies/skew/plot.py --update   # replace expected.json by the findings

Reads study.toml; the processes run record.py. Exits 3 when a recorded op deviates from its formula, or when the
findings differ from expected.json.
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
# Baselines that are no strategy.
EVERY_ID = "every id"
EVERYWHERE = "every id, everywhere"
HOST = "host"


def compute(study: Path) -> list[dict[str, Any]]:
    """Record every case, one group of processes per number of workers. Raises DessimError when a group fails."""
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
    """Return the rows in the order of the study file."""
    order = [study["skews"], study["workers"], [s["name"] for s in study["strategies"]]]
    keys = [[values.index(row[key]) for key, values in zip(CASE, order, strict=True)] for _, row in rows.iterrows()]
    return rows.iloc[sorted(range(len(keys)), key=keys.__getitem__)].reset_index(drop=True)


def baseline_bytes(
    study: Mapping[str, Any], rows: pd.DataFrame, case: Mapping[str, Any], against: str
) -> tuple[float, float]:
    """Return the bytes of the baseline `against` of a case: recorded (or counted), and by formula."""
    model = load_model(study["model"])
    n = case["workers"]
    if against in (EVERY_ID, EVERYWHERE):
        # Each occurrence fetches its row and returns its gradient, for one worker or for all: this needs no recording.
        sent = (n - 1) / n * study["batch_per_worker"] * model.input.ids_per_sample * (2 * 4 * model.row_width + 8)
        return (sent, sent) if against == EVERY_ID else (n * sent, n * sent)
    if against == HOST:
        # In every step each distinct row of the batch comes from its owner's host and goes back.
        row = 2 * 4 * (model.row_width + model.row_slots)
        law = ZipfLaw(study["vocabulary"], case["skew"], model.input.fields, offset=0.5)
        draws = n * study["batch_per_worker"] * model.input.ids_per_sample
        return row * case["owner_ids"], row * law.unique(draws) / n
    other = rows[(rows["skew"] == case["skew"]) & (rows.workers == n) & (rows.strategy == against)].iloc[0]
    return float(other.sent_bytes), float(other.expected_bytes)


def findings(study: Mapping[str, Any], rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return bytes and the share saved per case, recorded and by formula, in the order of the rows."""
    baselines = {s["name"]: s["against"] for s in study["strategies"]}
    savings = []
    for case in rows.to_dict("records"):
        baseline = baselines[case["strategy"]]
        if baseline == HOST:
            recorded = case["copied_bytes"]
            by_formula = case["expected_copied_bytes"]
        else:
            recorded = case["sent_bytes"]
            by_formula = case["expected_bytes"]
        baseline_recorded, baseline_by_formula = baseline_bytes(study, rows, case, against=baseline)
        savings.append(
            {key: case[key] for key in CASE}
            | {"against": baseline, "bytes": int(recorded), "by_formula": round(by_formula)}
            | {"saved": round(1 - recorded / baseline_recorded, 4)}
            | {"saved_by_formula": round(1 - by_formula / baseline_by_formula, 4)}
        )
    return savings


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Compare findings, shares to 2e-3: on another machine a power may round so that a different id is drawn."""
    case = (*CASE, "against")
    if [[f[key] for key in case] for f in found] != [[f[key] for key in case] for f in expected]:
        return False
    pairs = zip(found, expected, strict=True)
    return all(abs(a[key] - b[key]) < 2e-3 for a, b in pairs for key in ("saved", "saved_by_formula"))


def _percent(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:.1f} %".replace("-", "−")


def _against(name: str) -> str:
    """The words for what a strategy is compared with: another strategy, or one of three cases without an option."""
    return "no cache" if name == HOST else strategy_label(name)


def table(study: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """Return a Markdown table per number of workers: KiB per worker and step, and the share saved, by skew."""
    n_deviating = int((rows.mismatches > 0).sum())
    verdict = (
        f"do **not** match their formulas in {n_deviating} of them"
        if n_deviating
        else "match their formulas in all of them"
    )
    lines = [f"{len(rows)} cases of {study['steps']} steps; the bytes of collectives and copies {verdict}.", ""]
    savings = {tuple(f[key] for key in CASE): f for f in findings(study, rows)}
    for n in study["workers"]:
        lines += [
            f"**{n} workers**: KiB that a worker sends or copies in a step; share saved, recorded and by formula",
            "",
        ]
        heads = [f"Zipf {skew:g}, KiB | saved | by formula" for skew in study["skews"]]
        lines += [f"| strategy | against | {' | '.join(heads)} |", f"|---|---|{'---:|' * 3 * len(heads)}"]
        for strategy in study["strategies"]:
            cells = []
            for skew in study["skews"]:
                f = savings[skew, n, strategy["name"]]
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
    """Draw the share saved against skew as SVG text, one panel per option."""
    savings = findings(study, rows)
    names = [strategy["name"] for strategy in study["strategies"]]
    with house_style() as plt:
        figure, grid = plt.subplots(2, 2, figsize=(9.2, 7.2))
        for axes, panel in zip(grid.flat, PANELS, strict=True):
            _draw_panel(axes, panel, [name for name in names if panel.shows(name)], study, savings)
        for axes in grid[:, 0]:
            axes.set_ylabel("bytes saved (%)")
        handles = [
            plt.Line2D([], [], color=INK, marker=marker, ls=dash, ms=5, lw=1.2, label=f"{n} workers")
            for n, marker, dash in zip(study["workers"], MARKERS, DASHES, strict=False)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, title=LEGEND_TITLE)
        return svg_text(figure, "Bytes saved against the skew of ids")


def _draw_panel(
    axes: Any, panel: Panel, names: list[str], study: Mapping[str, Any], savings: list[dict[str, Any]]
) -> None:
    """One panel: a colour per strategy, a marker and a dash per number of workers."""
    for name, color in zip(names, COLORS, strict=False):
        for n, marker, dash in zip(study["workers"], MARKERS, DASHES, strict=False):
            cases = [f for f in savings if f["strategy"] == name and f["workers"] == n]
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
    parser.add_argument("--record", action="store_true", help="record every case first (two minutes on two cores)")
    options = parser.parse_args(arguments)

    file = HERE / "study.toml"
    study = read_toml(file)
    text = data_csv(compute(file), COLUMNS) if options.record else (HERE / "skew.csv").read_text("utf-8")
    rows = sorted_rows(study, pd.read_csv(io.StringIO(text)))
    files = {"skew.csv": text, "skew.svg": draw(study, rows)}
    unplanned = rows[rows.mismatches > 0]
    wrong = f"recorded bytes deviate from the plan in\n{unplanned.to_string(index=False)}" if len(unplanned) else ""
    return conclude(HERE, options, table(study, rows), files, findings(study, rows), same=same, wrong=wrong)


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
