"""What codecs save on the wire, what they cost in AUC, and what a step with them would take on a cluster.

    python studies/codecs/plot.py            # tables, codecs.svg and prices.csv from codecs.csv; checks expected.json
    python studies/codecs/plot.py --update   # and makes what it found the expectation
    python studies/codecs/plot.py --train    # first trains everything anew (a quarter of an hour): codecs.csv

Reads study.toml. Exits 3 when a byte is not the formula's, or the findings are not those of expected.json.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dessim.cluster import load_cluster
from dessim.commands.project import project
from dessim.commands.support.projection import Projection
from dessim.files import read_toml, write_text
from dessim.results.rows import data_csv
from dessim.results.study import conclude, run_study, study_parser
from dessim.results.style import FAINT, house_style
from dessim.results.svg import svg_text
from dessim.units import format_size, format_time
from dessim.workload.codecs import parse_codecs
from dessim.workload.model import load_model
from dessim.workload.scale import Job

HERE = Path(__file__).parent
PRUNED = ("partials_grad", "tail_grad", "shared_grad")
MEASURED = ("auc", "logloss", "sent_bytes", "recorded_bytes", "formula_bytes", *PRUNED)
COLUMNS = ("name", "codec", "seed", *MEASURED)
PRICES = ("cluster", "name", "codec", "gpus", "sent_bytes", "step_s", "compute_s", "exposed_comm_s")
Row = dict[str, Any]


def train(study: Mapping[str, Any], runs: Path) -> list[Row]:
    """A row of codecs.csv for each codec and seed."""
    sys.path.insert(0, str(HERE))
    from trainings import result

    rows = []
    for codec in study["codecs"]:
        for seed in study["seeds"]:
            found = result(study, codec, seed, runs)
            sizes = (round(found[key]) for key in ("sent_bytes", "recorded_bytes", "formula_bytes"))
            zero = (round(found["sparsity_by_op"][op], 4) if found["sparsity_by_op"] else "" for op in PRUNED)
            values = (round(found["auc"], 5), round(found["logloss"], 5), *sizes, *zero)
            rows.append(dict(zip(COLUMNS, (codec["name"], codec["codec"], seed, *values), strict=True)))
            print(f"{codec['name']}, seed {seed}: AUC {found['auc']:.4f}", file=sys.stderr)
    return rows


def read(file: Path) -> list[Row]:
    """The rows of codecs.csv."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [row | {key: float(row[key]) for key in MEASURED if row[key]} | {"seed": int(row["seed"])} for row in rows]


def findings(study: Mapping[str, Any], rows: Sequence[Row]) -> list[Row]:
    """Of each codec: bytes and how many fewer than fp32, AUC and log loss, and what AUC it loses on the same seeds."""
    found = []
    exact = {row["seed"]: row for row in rows if row["codec"] == "fp32"}
    for codec in study["codecs"]:
        mine = [row for row in rows if row["codec"] == codec["codec"]]
        lost = [exact[row["seed"]]["auc"] - row["auc"] for row in mine]
        sent = mean(row["sent_bytes"] for row in mine)
        found.append(
            {
                "name": codec["name"],
                "codec": codec["codec"],
                "trainings": len(mine),
                "sent_bytes": round(sent),
                "saved": round(1 - sent / mean(row["sent_bytes"] for row in exact.values()), 4),
                "bytes_match": all(row["recorded_bytes"] == row["formula_bytes"] for row in mine),
                "auc": round(mean(row["auc"] for row in mine), 5),
                "auc_sd": round(stdev(row["auc"] for row in mine), 5),
                "logloss": round(mean(row["logloss"] for row in mine), 5),
                "auc_lost": round(mean(lost), 5),
                "auc_lost_sd": round(stdev(lost), 5),
                "sparsity": {op: round(mean(row[op] for row in mine), 4) for op in PRUNED if mine[0][op] != ""},
            }
        )
    return found


def prices(study: Mapping[str, Any]) -> list[Row]:
    """A simulated step of a larger model with each codec on each cluster."""
    asked, rows = study["project"], []
    job = Job.of_model(load_model(asked["model"]))
    for where in asked["jobs"]:
        cluster = load_cluster(where["cluster"])
        for codec in study["codecs"]:
            codecs = parse_codecs(codec["codec"])
            (row,) = project(job, cluster, [asked["strategy"]], [where["gpus"]], codecs=codecs)
            assert isinstance(row, Projection)
            times = (row.breakdown.step_time_s, row.breakdown.compute_s, row.breakdown.exposed_comm_s)
            about = (where["cluster"], codec["name"], codec["codec"], row.gpus, round(row.bytes_per_worker))
            rows.append(dict(zip(PRICES, (*about, *(float(f"{t:.5g}") for t in times)), strict=True)))
    return rows


def table(study: Mapping[str, Any], found: Sequence[Row], priced: Sequence[Row]) -> str:
    """Both tables in Markdown."""
    lines = [
        "| on the wire | sent a worker a step | saved | bytes as by formula | AUC | log loss | AUC lost | made 0 (%) |",
        "|---|---:|---:|:---:|---:|---:|---:|---:|",
    ]
    for f in found:
        zero = ", ".join(f"{100 * share:.1f}" for share in f["sparsity"].values())
        lost = "" if f["codec"] == "fp32" else f"{f['auc_lost']:+.4f} ± {f['auc_lost_sd']:.4f}".replace("-", "−")
        cells = (f["name"], format_size(f["sent_bytes"]), f"{100 * f['saved']:.0f} %" if lost else "")
        cells += ("yes" if f["bytes_match"] else "NO", f"{f['auc']:.4f} ± {f['auc_sd']:.4f}", f"{f['logloss']:.4f}")
        lines.append("| " + " | ".join((*cells, lost, zero)) + " |")
    model = study["project"]["model"]
    for where in study["project"]["jobs"]:
        lines += [
            "",
            f"A step of {model} on {where['gpus']} GPUs of {where['cluster']}, simulated:",
            "",
            "| on the wire | sent a worker | step | compute | exposed communication |",
            "|---|---:|---:|---:|---:|",
        ]
        for p in priced:
            if p["cluster"] == where["cluster"]:
                times = (format_time(p[key]) for key in ("step_s", "compute_s", "exposed_comm_s"))
                lines.append("| " + " | ".join((p["name"], format_size(p["sent_bytes"]), *times)) + " |")
    return "\n".join(lines) + "\n"


def draw(study: Mapping[str, Any], found: Sequence[Row]) -> str:
    """The figure as SVG text: AUC lost against bytes saved."""
    with house_style() as plt:
        figure, axes = plt.subplots(figsize=(8.2, 4.2))
        unit = 1000 * study["unit"]
        axes.axhspan(-unit, unit, color=FAINT, alpha=0.25, lw=0, label="the field's unit of significance")
        axes.axhline(0, color=FAINT, lw=0.8)
        lossy = [f for f in found if f["codec"] != "fp32"]
        colors = plt.get_cmap("tab20")
        for i, f in enumerate(lossy):
            axes.errorbar(
                100 * f["saved"],
                1000 * f["auc_lost"],
                1000 * f["auc_lost_sd"],
                fmt="osD^vPX<>p*"[i % 11],
                color=colors(i),
                capsize=2,
                label=f["name"],
            )
        axes.set(xlabel="bytes saved (%)", ylabel="AUC lost (thousandths)\nmean and deviation over seeds")
        axes.grid(True, axis="y")
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
        return svg_text(figure, "What codecs save and what they cost")


def main(arguments: list[str] | None = None) -> int:
    parser = study_parser(__doc__, HERE)
    parser.add_argument("--train", action="store_true", help="train everything anew")
    parser.add_argument("--runs", type=Path, default=Path("out/codecs"), help="keeps trainings that are done")
    options = parser.parse_args(arguments)

    study = read_toml(HERE / "study.toml")
    if options.train:
        write_text(HERE / "codecs.csv", data_csv(train(study, options.runs), COLUMNS))
    found, priced = findings(study, read(HERE / "codecs.csv")), prices(study)
    files = {"prices.csv": data_csv(priced, PRICES), "codecs.svg": draw(study, found)}
    wrong = "" if all(f["bytes_match"] for f in found) else "recorded bytes are not the formula's"
    return conclude(HERE, options, table(study, found, priced), files, {"codecs": found, "prices": priced}, wrong=wrong)


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
