"""Compare the bytes that a worker sends in a training step, recorded from real processes, with the plan's formula.

    python studies/bytes/plot.py            # write the tables and bytes.svg from bytes.csv, check expected.json
    python studies/bytes/plot.py --record   # record every case first, on groups of up to 9 processes
    python studies/bytes/plot.py --record --keep FOLDER   # resume an interrupted recording that kept its results there
    python studies/bytes/plot.py --update   # replace expected.json by the findings

Reads study.toml; the processes run record.py. Exits 3 when a recorded byte deviates from the formula, or when the
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
from pathlib import Path
from typing import Any

import pandas as pd

from dessim.errors import DessimError
from dessim.files import atomic_path, read_toml
from dessim.results.rows import data_csv
from dessim.results.study import conclude, run_study, study_parser
from dessim.results.style import INK, house_style, strategy_label
from dessim.results.svg import svg_text
from dessim.workload.model import load_model
from dessim.workload.plan import Plan, Traffic
from dessim.workload.strategies import plan

HERE = Path(__file__).parent
DES = ("des_all_reduce", "des_reduce_scatter")
PS = "ps_sync"
DEDICATED_SERVER = "ps_async"  # the strategy whose servers are separate processes
CASE = ("ids", "model", "workers", "strategy")
COLUMNS = (*CASE, "batch_per_worker", "recorded_bytes", "formula_bytes", "dense_bytes", "mismatches")


def compute(study: Path, kept: Path) -> list[dict[str, Any]]:
    """Record every case; return one row per case in the order of the study file. Raises DessimError.

    Each number of workers runs as two groups of processes, one of them with a server. Each group keeps its rows in a
    file in `kept`; a group whose file exists is not run again.
    """
    settings = read_toml(study)
    rows = []
    for workers in settings["workers"]:
        for servers in (0, 1) if DEDICATED_SERVER in settings["strategies"] else (0,):
            group_file = kept / f"workers{workers}_servers{servers}.jsonl"
            if not group_file.exists():
                with atomic_path(group_file) as lines:
                    _launch(workers + servers, "--study", str(study), "--servers", str(servers), str(lines))
            rows += [json.loads(line) for line in group_file.read_text("utf-8").splitlines()]
    order = [list(settings["ids_per_field"]), settings["models"], settings["workers"], settings["strategies"]]
    return sorted(rows, key=lambda row: [values.index(row[key]) for key, values in zip(CASE, order, strict=True)])


def _launch(processes: int, *arguments: str) -> None:
    """Run record.py on `processes` ranks; its messages go to stderr. Raises DessimError when it fails."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run([*launcher, str(HERE / "record.py"), *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise DessimError(f"record.py on {processes} processes failed (exit {done.returncode}): see above")


def findings(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the share of the parameter server's bytes that DES saves, per ids, model and number of workers.

    `saved` is of all bytes, `saved_but_dense` of the bytes that are not for replicated dense weights.
    """
    cases = rows.set_index(list(CASE))
    all_bytes = cases.recorded_bytes
    measures = {"saved": all_bytes, "saved_but_dense": all_bytes - cases.dense_bytes}
    savings = []
    for (ids, model, workers), _ in rows.groupby(list(CASE[:3]), sort=False):
        shares = {
            name: {
                des: round(float(1 - sent[ids, model, workers, des] / sent[ids, model, workers, PS]), 4) for des in DES
            }
            for name, sent in measures.items()
        }
        savings.append({"ids": ids, "model": model, "workers": int(workers), **shares})
    return savings


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Compare findings, shares to 1e-3: on another machine a power may round so that a different id is drawn."""
    case = ("ids", "model", "workers")
    shares = ("saved", "saved_but_dense")
    if [[f[key] for key in case] for f in found] != [[f[key] for key in case] for f in expected]:
        return False
    return all(
        abs(a[key][des] - b[key][des]) < 1e-3
        for a, b in zip(found, expected, strict=True)
        for key in shares
        for des in DES
    )


def deviating(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the cases in which an op deviated from its plan."""
    return rows[(rows.mismatches > 0) | (rows.recorded_bytes != rows.formula_bytes)]


def table(study: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """Return a Markdown table per kind of ids: MiB a worker sends, bold where DES saves what the paper claims."""
    cases = len(rows)
    n_deviating = len(deviating(rows))
    claimed_saving = study["claim"]["saved"]
    verdict = (
        f"**not** the formula's in {n_deviating} of them" if n_deviating else "equal to the formula's in all of them"
    )
    lines = [f"{cases} cases of {study['steps']} steps; the recorded bytes are {verdict}.", ""]
    savings = {(f["ids"], f["model"], f["workers"]): f for f in findings(rows)}
    heads = ["N", *(strategy_label(s) for s in study["strategies"]), "AllReduce saves", "ReduceScatter saves"]
    heads.append("ReduceScatter saves without dense")
    for ids, mean in study["ids_per_field"].items():
        lines += [f"**{ids}**, {mean} id{'s' * (mean > 1)} per field", ""]
        lines += [f"| model | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
        for (model, workers), recorded in rows[rows.ids == ids].groupby(["model", "workers"], sort=False):
            mib = dict(zip(recorded.strategy, recorded.recorded_bytes / 2**20, strict=True))
            saving = savings[ids, model, workers]
            cells = [f"{mib[strategy]:.3g}" for strategy in study["strategies"]]
            for value in (saving["saved"][DES[0]], saving["saved"][DES[1]], saving["saved_but_dense"][DES[1]]):
                mark = "**" if value >= claimed_saving else ""
                cells.append(f"{mark}{100 * value:.1f} %{mark}".replace("-", "−"))
            name = model if workers == study["workers"][0] else ""
            lines.append(f"| {name} | {workers} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def formulas(study: Mapping[str, Any]) -> str:
    """Return two Markdown tables of the plan's sizes: by strategy for one model, and under DES by model."""
    shown = study["formulas"]["model"]
    lines = [f"| strategy, {shown} | ids and control | in place of weights | dense |", "|---|---|---|---|"]
    kinds = ((Traffic.IDS, Traffic.CONTROL), (Traffic.SPARSE,), (Traffic.DENSE,))
    for strategy in study["strategies"]:
        cells = [_sent(plan(strategy, load_model(shown)), kind) for kind in kinds]
        lines.append(f"| {strategy_label(strategy)} | {' | '.join(cells)} |")
    lines += ["", f"| model, {strategy_label(DES[0])} | in place of weights | dense |", "|---|---|---|"]
    for model in study["models"]:
        cells = [_sent(plan(DES[0], load_model(model)), kind) for kind in kinds[1:]]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _sent(planned: Plan, kinds: tuple[Traffic, ...]) -> str:
    """Return the ops of these kinds of traffic with their S; ops of equal S are counted, not repeated."""
    names_by_size: dict[str, list[str]] = {}
    for op in planned.collectives:
        if op.traffic in kinds:
            names_by_size.setdefault(f"{op.collective} `{op.size}`", []).append(op.name)
    lines = ((f"{len(names)} × " if len(names) > 1 else "") + size for size, names in names_by_size.items())
    return "<br>".join(lines) or "-"


def draw(study: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """Draw as SVG text the share saved, models by workers; a panel for each measure and kind of ids."""
    import seaborn as sns

    savings = findings(rows)
    kinds = list(study["ids_per_field"])
    measures = [(strategy_label(des), "saved", des) for des in DES] + [("without dense", "saved_but_dense", DES[1])]
    colors = sns.diverging_palette(35, 250, s=85, l=52, as_cmap=True)
    with house_style() as plt:
        columns = len(measures) * len(kinds)
        figure, panels = plt.subplots(
            1, columns, figsize=(11, 4.6), sharey=True, width_ratios=[1] * (columns - 1) + [1.25]
        )
        panel_keys = [(*measure, ids) for measure in measures for ids in kinds]
        for axes, (title, key, des, ids) in zip(panels, panel_keys, strict=True):
            cases = pd.DataFrame([{**f, "share": 100 * f[key][des]} for f in savings if f["ids"] == ids])
            share = cases.pivot(index="model", columns="workers", values="share")
            share = share.loc[study["models"], study["workers"]]
            text = share.map(lambda value: f"{value:.0f}".replace("-", "−") if value > -99.5 else "<−99")
            sns.heatmap(
                share, annot=text, fmt="", vmin=-100, vmax=100, cmap=colors, linewidths=1.5,
                annot_kws={"size": 8}, cbar=axes is panels[-1], cbar_kws={"label": "saved (%)"}, ax=axes,
            )  # fmt: skip
            for y, x in zip(*(share.to_numpy() >= 100 * study["claim"]["saved"]).nonzero(), strict=True):
                axes.add_patch(plt.Rectangle((x + 0.04, y + 0.04), 0.92, 0.92, fill=False, ec=INK, lw=1.4))
            axes.set(xlabel="workers", ylabel="")
            axes.set_title(f"{title.replace(' ', chr(10), 1)}\n{ids}", loc="left")
            axes.tick_params(length=0)
            axes.grid(False)
        return svg_text(figure, "Bytes that DES saves against a parameter server")


def main(arguments: list[str] | None = None) -> int:
    parser = study_parser(__doc__, HERE)
    parser.add_argument("--record", action="store_true", help="record every case first (six minutes on two cores)")
    parser.add_argument("--keep", type=Path, help="folder in which --record keeps results, and from which it resumes")
    options = parser.parse_args(arguments)

    file = HERE / "study.toml"
    if options.record:
        with tempfile.TemporaryDirectory() as scratch:
            text = data_csv(compute(file, options.keep or Path(scratch)), COLUMNS)
    else:
        text = (HERE / "bytes.csv").read_text("utf-8")
    study = read_toml(file)
    rows = pd.read_csv(io.StringIO(text))
    tables = f"{table(study, rows)}\n{formulas(study)}"
    files = {"bytes.csv": text, "bytes.svg": draw(study, rows)}
    unplanned = deviating(rows)
    wrong = f"recorded bytes deviate from the plan in\n{unplanned.to_string(index=False)}" if len(unplanned) else ""
    return conclude(HERE, options, tables, files, findings(rows), same=same, wrong=wrong)


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
