"""Bytes that a worker sends in a training step, as recorded from real processes, beside the plan's formula.

    python studies/bytes/plot.py            # from bytes.csv: writes the tables and bytes.svg, checks expected.json
    python studies/bytes/plot.py --record   # trains every case anew for it, on groups of up to 9 processes
    python studies/bytes/plot.py --record --keep FOLDER   # and goes on from what a run that was cut left there
    python studies/bytes/plot.py --update   # makes what was found the expectation

Reads study.toml; record.py is what the processes run. Exits 3 when a recorded byte is not the formula's, or when the
findings are not those of expected.json.
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
DES, PS, SERVED = ("des_all_reduce", "des_reduce_scatter"), "ps_sync", "ps_async"
CASE = ("ids", "model", "workers", "strategy")
COLUMNS = (*CASE, "batch_per_worker", "recorded_bytes", "formula_bytes", "dense_bytes", "mismatches")


def compute(study: Path, kept: Path) -> list[dict[str, Any]]:
    """A row a case, from groups of processes: two for each number of workers, one of them with a server.

    `kept`: folder that gets a file of rows a group; groups whose file is there are not run. Raises DessimError.
    """
    settings, rows = read_toml(study), []
    for workers in settings["workers"]:
        for servers in (0, 1) if SERVED in settings["strategies"] else (0,):
            done = kept / f"workers{workers}_servers{servers}.jsonl"
            if not done.exists():
                with atomic_path(done) as lines:
                    _launch(workers + servers, "--study", str(study), "--servers", str(servers), str(lines))
            rows += [json.loads(line) for line in done.read_text("utf-8").splitlines()]
    order = [list(settings["ids_per_field"]), settings["models"], settings["workers"], settings["strategies"]]
    return sorted(rows, key=lambda row: [known.index(row[key]) for key, known in zip(CASE, order, strict=True)])


def _launch(processes: int, *arguments: str) -> None:
    """Run record.py on so many processes; what it says goes to stderr. Raises DessimError when it fails."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run([*launcher, str(HERE / "record.py"), *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise DessimError(f"record.py on {processes} processes failed (exit {done.returncode}): see above")


def findings(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Per ids, model and number of workers: the share of the parameter server's bytes that DES saves, of all bytes
    and of those that are not for replicated dense weights."""
    cases = rows.set_index(list(CASE))
    every = cases.recorded_bytes
    measures = {"saved": every, "saved_but_dense": every - cases.dense_bytes}
    found = []
    for (ids, model, workers), _ in rows.groupby(list(CASE[:3]), sort=False):
        shares = {
            name: {
                des: round(float(1 - sent[ids, model, workers, des] / sent[ids, model, workers, PS]), 4) for des in DES
            }
            for name, sent in measures.items()
        }
        found.append({"ids": ids, "model": model, "workers": int(workers), **shares})
    return found


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Equal, shares to 1e-3: on another machine a last digit of a power may turn one drawn id into the next."""
    about, shares = ("ids", "model", "workers"), ("saved", "saved_but_dense")
    if [[f[key] for key in about] for f in found] != [[f[key] for key in about] for f in expected]:
        return False
    return all(
        abs(a[key][des] - b[key][des]) < 1e-3
        for a, b in zip(found, expected, strict=True)
        for key in shares
        for des in DES
    )


def wrong(rows: pd.DataFrame) -> pd.DataFrame:
    """Cases in which an op was not as planned."""
    return rows[(rows.mismatches > 0) | (rows.recorded_bytes != rows.formula_bytes)]


def table(study: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """A table in Markdown for each kind of ids: MiB a worker sends; in bold where DES saves what the paper claims."""
    cases, red, bold = len(rows), len(wrong(rows)), study["claim"]["saved"]
    verdict = "equal to the formula's in all of them" if not red else f"**not** the formula's in {red} of them"
    lines = [f"{cases} cases of {study['steps']} steps; the recorded bytes are {verdict}.", ""]
    found = {(f["ids"], f["model"], f["workers"]): f for f in findings(rows)}
    heads = ["N", *(strategy_label(s) for s in study["strategies"]), "AllReduce saves", "ReduceScatter saves"]
    heads.append("dense left out")
    for ids, mean in study["ids_per_field"].items():
        lines += [f"**{ids}**, {mean} id{'s' * (mean > 1)} a field", ""]
        lines += [f"| model | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
        for (model, workers), mine in rows[rows.ids == ids].groupby(["model", "workers"], sort=False):
            mib = dict(zip(mine.strategy, mine.recorded_bytes / 2**20, strict=True))
            share = found[ids, model, workers]["saved"]
            cells = [f"{mib[strategy]:.3g}" for strategy in study["strategies"]]
            for value in (share[DES[0]], share[DES[1]], found[ids, model, workers]["saved_but_dense"][DES[1]]):
                mark = "**" if value >= bold else ""
                cells.append(f"{mark}{100 * value:.1f} %{mark}".replace("-", "−"))
            name = model if workers == study["workers"][0] else ""
            lines.append(f"| {name} | {workers} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def formulas(study: Mapping[str, Any]) -> str:
    """Two tables in Markdown of what the plan sends: by strategy for one model, and under DES by model."""
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
    """The ops of these kinds with their S, those of the same S in one."""
    ops: dict[str, list[str]] = {}
    for op in planned.collectives:
        if op.traffic in kinds:
            ops.setdefault(f"{op.collective} `{op.size}`", []).append(op.name)
    many = ((f"{len(names)} × " if len(names) > 1 else "") + size for size, names in ops.items())
    return "<br>".join(many) or "-"


def draw(study: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """The figure as SVG text: the share saved, models by workers; a panel for each way to count and kind of ids."""
    import seaborn as sns

    found, kinds = findings(rows), list(study["ids_per_field"])
    counted = [(strategy_label(des), "saved", des) for des in DES] + [("dense left out", "saved_but_dense", DES[1])]
    colors = sns.diverging_palette(35, 250, s=85, l=52, as_cmap=True)
    with house_style() as plt:
        columns = len(counted) * len(kinds)
        figure, panels = plt.subplots(
            1, columns, figsize=(11, 4.6), sharey=True, width_ratios=[1] * (columns - 1) + [1.25]
        )
        wanted = [(*way, ids) for way in counted for ids in kinds]
        for axes, (title, key, des, ids) in zip(panels, wanted, strict=True):
            mine = pd.DataFrame([{**f, "share": 100 * f[key][des]} for f in found if f["ids"] == ids])
            share = mine.pivot(index="model", columns="workers", values="share")
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
    parser.add_argument("--record", action="store_true", help="train every case anew (six minutes on two cores)")
    parser.add_argument("--keep", type=Path, help="folder for what --record has so far; it goes on from what is there")
    options = parser.parse_args(arguments)

    file = HERE / "study.toml"
    if options.record:
        with tempfile.TemporaryDirectory() as scratch:
            text = data_csv(compute(file, options.keep or Path(scratch)), COLUMNS)
    else:
        text = (HERE / "bytes.csv").read_text("utf-8")
    study, rows = read_toml(file), pd.read_csv(io.StringIO(text))
    made, red = f"{table(study, rows)}\n{formulas(study)}", wrong(rows)
    files = {"bytes.csv": text, "bytes.svg": draw(study, rows)}
    unplanned = f"recorded is not planned in\n{red.to_string(index=False)}" if len(red) else ""
    return conclude(HERE, options, made, files, findings(rows), same, unplanned)


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
