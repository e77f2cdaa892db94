"""Compute the bytes a worker sends in a step under each strategy, from the size formulas alone.

    python studies/paper_savings/plot.py            # write savings.csv and savings.svg; check expected.json
    python studies/paper_savings/plot.py --update   # replace expected.json by the findings

Reads study.toml. Exits 3 when the findings differ from expected.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dessim.files import write_json, write_text
from dessim.results.axes import gpu_axis, log_axis
from dessim.results.rows import data_csv
from dessim.results.style import FAINT, house_style, style_of
from dessim.results.svg import svg_text
from dessim.workload.model import Model, parse_model
from dessim.workload.strategies import plan

HERE = Path(__file__).parent
DES = "des_all_reduce"
PS = "ps_sync"
COLUMNS = ("model", "ids_per_sample", "duplicates", "workers", "strategy", "bytes_per_worker", "saved_vs_ps")
AGAINST = {"merged": "PS merges equal ids", "all": "PS sends every id"}


def compute(study: dict[str, Any]) -> list[dict[str, Any]]:
    """Evaluate every case of the grid: bytes a worker sends, and the share saved against the parameter server."""
    rows = []
    for model, name, ids, duplicates in _cases(study):
        unique = None if duplicates == "merged" else float  # None: the model's own Zipf law
        plans = {strategy: plan(strategy, model) for strategy in study["grid"]["strategies"]}
        for workers in study["grid"]["workers"]:
            symbols = model.symbols(workers, unique=unique)
            sent = {strategy: planned.sent_bytes(symbols) for strategy, planned in plans.items()}
            for strategy, size in sent.items():
                saved = round(1 - size / sent[PS], 6)
                values = (name, ids, duplicates, workers, strategy, round(size), saved)
                rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _cases(study: dict[str, Any]) -> Iterator[tuple[Model, str, int, str]]:
    for entry in study["models"]:
        for ids in study["grid"]["ids_per_sample"]:
            raw = {
                "schema_version": 1,
                "name": entry["name"],
                "input": {**study["input"], "ids_per_sample": ids},
                "embedding": study["embedding"],
                "operators": entry["operators"],
            }
            for duplicates in study["grid"]["duplicates"]:
                yield parse_model(raw, HERE / "study.toml"), entry["name"], ids, duplicates


def findings(study: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the best saving, and where DES stops winning, per model, ids per sample and treatment of duplicates.

    `claim_holds_to` is the largest number of workers at which DES saves what the paper claims, None if there is none.
    `loses_from` is, for each rival, the smallest number of workers from which DES sends more at every larger scale.
    """
    sent = {tuple(r[c] for c in COLUMNS[:5]): r["bytes_per_worker"] for r in rows}
    workers = study["grid"]["workers"]
    conclusions = []
    for _, name, ids, duplicates in _cases(study):

        def size(n: int, strategy: str, case: tuple[str, int, str] = (name, ids, duplicates)) -> int:
            return sent[(*case, n, strategy)]

        saved = {n: 1 - size(n, DES) / size(n, PS) for n in workers}
        best = max(workers, key=lambda n: saved[n])
        loses = {}
        for rival in study["grid"]["strategies"]:
            if rival != DES:
                # Table-wise gives each worker at least one whole table, so it needs at most as many workers as fields.
                feasible = [n for n in workers if rival != "table_wise" or n <= study["input"]["fields"]]
                wins = [n for n in feasible if size(n, DES) <= size(n, rival)]
                later = [n for n in feasible if n > max(wins, default=0)]
                loses[rival] = later[0] if later else None
        conclusions.append(
            {
                "model": name,
                "ids_per_sample": ids,
                "duplicates": duplicates,
                "best_saving": round(saved[best], 4),
                "best_at": best,
                "claim_holds_to": max((n for n in workers if saved[n] >= study["claim"]["saved"]), default=None),
                "loses_from": loses,
            }
        )
    return conclusions


def draw(study: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Draw as SVG text: bytes by strategy on top, savings against two kinds of parameter server below."""
    import seaborn as sns

    models = [m["name"] for m in study["models"]]
    workers = study["grid"]["workers"]
    ids_shown = study["figure"]["ids_per_sample"]
    with house_style() as plt:
        figure, panels = plt.subplots(3, len(models), figsize=(10.2, 8.6), sharex=True, sharey="row")
        for column, model in enumerate(models):
            model_rows = [r for r in rows if r["model"] == model]
            top = panels[0][column]
            shown = [r for r in model_rows if r["ids_per_sample"] == ids_shown and r["duplicates"] == "merged"]
            _bytes_panel(top, shown, study)
            top.set_title(model, loc="left", fontweight="bold")
            for axes, duplicates in zip((panels[1][column], panels[2][column]), ("merged", "all"), strict=True):
                saved = [r for r in model_rows if r["duplicates"] == duplicates and r["strategy"] == DES]
                _savings_panel(axes, saved, study)
                if column == 0:
                    axes.set_ylabel(f"saved by DES (%)\n{AGAINST[duplicates]}")
                    axes.text(2, -94, "here DES sends more", color="#a34700", size="small")
            gpu_axis(panels[2][column], workers, max_ticks=4, label="workers (GPUs)")
        for axes in panels[0]:
            axes.set_xlabel("")
        panels[0][0].set_ylabel(f"sent by a worker in a step\nat {ids_shown} ids per sample (MiB)")
        for axes in panels.flat:
            if legend := axes.get_legend():
                legend.remove()
        sns.despine(figure)
        right = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5), "frameon": False}
        panels[0][-1].legend(*panels[0][0].get_legend_handles_labels(), **right)
        for row in (1, 2):
            handles, labels = panels[row][0].get_legend_handles_labels()
            panels[row][-1].legend(handles, labels, title="ids per sample", alignment="left", **right)
        return svg_text(figure, "Bytes saved by DES")


def _bytes_panel(axes: Any, rows: list[dict[str, Any]], study: dict[str, Any]) -> None:
    import seaborn as sns

    # Table-wise gives each worker at least one whole table, so its line ends where there are more workers than tables.
    tables = study["input"]["fields"]
    rows = [r for r in rows if r["strategy"] != "table_wise" or r["workers"] <= tables]
    styles = {s: style_of(s) for s in study["grid"]["strategies"]}
    labels = [s.label for s in styles.values()]
    sns.lineplot(
        x=[r["workers"] for r in rows],
        y=[r["bytes_per_worker"] / 2**20 for r in rows],
        hue=[styles[r["strategy"]].label for r in rows],
        style=[styles[r["strategy"]].label for r in rows],
        hue_order=labels,
        style_order=labels,
        palette={s.label: s.color for s in styles.values()},
        markers={s.label: s.marker for s in styles.values()},
        dashes={s.label: s.dash or "" for s in styles.values()},
        markersize=6,
        ax=axes,
    )
    log_axis(axes, "{:,g}".format)


def _savings_panel(axes: Any, rows: list[dict[str, Any]], study: dict[str, Any]) -> None:
    import seaborn as sns

    ids = [f"{i:,}" for i in study["grid"]["ids_per_sample"]]
    claim = 100 * study["claim"]["saved"]
    axes.axhspan(-110, 0, color="#d55e00", alpha=0.07, lw=0)
    axes.axhline(0, color=FAINT, lw=0.8)
    axes.axhline(claim, color="#0173b2", lw=1, ls=(0, (4, 3)), label="68.7 % (paper)")
    sns.lineplot(
        x=[r["workers"] for r in rows],
        y=[100 * r["saved_vs_ps"] for r in rows],
        hue=[f"{r['ids_per_sample']:,}" for r in rows],
        style=[f"{r['ids_per_sample']:,}" for r in rows],
        hue_order=ids,
        style_order=ids,
        palette=dict(zip(ids, sns.color_palette("flare", len(ids)), strict=True)),
        markers=dict(zip(ids, ("o", "s", "^", "D"), strict=True)),
        dashes=False,
        markersize=5,
        ax=axes,
    )
    axes.set(ylim=(-102, 102), yticks=(-100, -50, 0, 50, 100))


def same(a: Any, b: Any) -> bool:
    """Compare findings, floats to 1e-4: another machine's logarithm may round differently."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, abs_tol=1.5e-4)
    return bool(a == b)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="replace expected.json by the findings")
    parser.add_argument(
        "--out", type=Path, default=HERE, help="output folder for savings.csv and savings.svg (default: this study)"
    )
    options = parser.parse_args(arguments)

    study = tomllib.loads((HERE / "study.toml").read_text("utf-8"))
    rows = compute(study)
    conclusions = findings(study, rows)
    write_text(options.out / "savings.csv", data_csv(rows, COLUMNS))
    write_text(options.out / "savings.svg", draw(study, rows))
    for f in conclusions:
        loses = ", ".join(f"{rival} {n}" for rival, n in f["loses_from"].items() if n is not None) or "no rival"
        best = f"{100 * f['best_saving']:5.1f} % at N = {f['best_at']}"
        claim = f"68.7 % to N = {f['claim_holds_to'] or '-'}"
        print(
            f"{f['model']:8} {f['ids_per_sample']:5} ids {f['duplicates']:7} best {best}; {claim}; loses from {loses}"
        )
    if options.update:
        write_json(HERE / "expected.json", conclusions)
    elif not same(json.loads((HERE / "expected.json").read_text("utf-8")), conclusions):
        print("paper_savings: findings differ from expected.json", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
