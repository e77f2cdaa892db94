"""Compare codecs: bytes saved on the wire, AUC lost, and the time of a step with them on a cluster.

    python studies/codecs/plot.py            # tables, codecs.svg and prices.csv from codecs.csv; check expected.json
    python studies/codecs/plot.py --update   # replace expected.json by the findings
    python studies/codecs/plot.py --train    # repeat every training first (half an hour): writes codecs.csv

Reads study.toml. Exits 3 when a byte deviates from the formula, or when the findings differ from expected.json.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dessim.cluster import load_cluster
from dessim.commands.project import run_projection
from dessim.commands.support.project_request import ProjectRequest
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
    """Train each codec with each seed; return the rows of codecs.csv. Raises DessimError."""
    sys.path.insert(0, str(HERE))
    from trainings import result

    rows = []
    for codec in study["codecs"]:
        for seed in study["seeds"]:
            summary = result(study, codec, seed, runs)
            sizes = (round(summary[key]) for key in ("sent_bytes", "recorded_bytes", "formula_bytes"))
            sparsity = summary["sparsity_by_op"]
            pruned = (round(sparsity[op], 4) if sparsity else "" for op in PRUNED)
            values = (round(summary["auc"], 5), round(summary["logloss"], 5), *sizes, *pruned)
            rows.append(dict(zip(COLUMNS, (codec["name"], codec["codec"], seed, *values), strict=True)))
            print(f"{codec['name']}, seed {seed}: AUC {summary['auc']:.4f}", file=sys.stderr)
    return rows


def read(file: Path) -> list[Row]:
    """Read codecs.csv, numbers as numbers."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [row | {key: float(row[key]) for key in MEASURED if row[key]} | {"seed": int(row["seed"])} for row in rows]


def findings(study: Mapping[str, Any], rows: Sequence[Row]) -> list[Row]:
    """Return for each codec its bytes, the share it saves over fp32, AUC, log loss, and AUC lost on the same seeds."""
    per_codec = []
    exact = {row["seed"]: row for row in rows if row["codec"] == "fp32"}
    for codec in study["codecs"]:
        trained = [row for row in rows if row["codec"] == codec["codec"]]
        lost = [exact[row["seed"]]["auc"] - row["auc"] for row in trained]
        sent = mean(row["sent_bytes"] for row in trained)
        per_codec.append(
            {
                "name": codec["name"],
                "codec": codec["codec"],
                "trainings": len(trained),
                "sent_bytes": round(sent),
                "saved": round(1 - sent / mean(row["sent_bytes"] for row in exact.values()), 4),
                "bytes_match": all(row["recorded_bytes"] == row["formula_bytes"] for row in trained),
                "auc": round(mean(row["auc"] for row in trained), 5),
                "auc_sd": round(stdev(row["auc"] for row in trained), 5),
                "logloss": round(mean(row["logloss"] for row in trained), 5),
                "auc_lost": round(mean(lost), 5),
                "auc_lost_sd": round(stdev(lost), 5),
                "sparsity": {op: round(mean(row[op] for row in trained), 4) for op in PRUNED if trained[0][op] != ""},
            }
        )
    return per_codec


def prices(study: Mapping[str, Any]) -> list[Row]:
    """Simulate a step of a larger model with each codec on each cluster; return the rows of prices.csv."""
    settings = study["project"]
    rows = []
    job = Job.of_model(load_model(settings["model"]))
    for where in settings["jobs"]:
        cluster = load_cluster(where["cluster"])
        for codec in study["codecs"]:
            codecs = parse_codecs(codec["codec"])
            request = ProjectRequest(
                job=job,
                cluster=cluster,
                strategies=[settings["strategy"]],
                gpus=[where["gpus"]],
                codecs=codecs,
            )
            (row,) = run_projection(request)
            assert isinstance(row, Projection)
            times = (row.breakdown.step_time_s, row.breakdown.compute_s, row.breakdown.exposed_comm_s)
            case = (where["cluster"], codec["name"], codec["codec"], row.gpus, round(row.bytes_per_worker))
            rows.append(dict(zip(PRICES, (*case, *(float(f"{t:.5g}") for t in times)), strict=True)))
    return rows


def table(study: Mapping[str, Any], found: Sequence[Row], priced: Sequence[Row]) -> str:
    """Return both tables in Markdown."""
    lines = [
        "| codec | sent per worker, step | saved | equal to formula | AUC | log loss | AUC lost | pruned to 0 (%) |",
        "|---|---:|---:|:---:|---:|---:|---:|---:|",
    ]
    for f in found:
        pruned = ", ".join(f"{100 * share:.1f}" for share in f["sparsity"].values())
        lost = "" if f["codec"] == "fp32" else f"{f['auc_lost']:+.4f} ± {f['auc_lost_sd']:.4f}".replace("-", "−")
        cells = (f["name"], format_size(f["sent_bytes"]), f"{100 * f['saved']:.0f} %" if lost else "")
        cells += ("yes" if f["bytes_match"] else "NO", f"{f['auc']:.4f} ± {f['auc_sd']:.4f}", f"{f['logloss']:.4f}")
        lines.append("| " + " | ".join((*cells, lost, pruned)) + " |")
    model = study["project"]["model"]
    for where in study["project"]["jobs"]:
        lines += [
            "",
            f"A step of {model} on {where['gpus']} GPUs of {where['cluster']}, simulated:",
            "",
            "| codec | sent per worker | step | compute | exposed communication |",
            "|---|---:|---:|---:|---:|",
        ]
        for p in priced:
            if p["cluster"] == where["cluster"]:
                times = (format_time(p[key]) for key in ("step_s", "compute_s", "exposed_comm_s"))
                lines.append("| " + " | ".join((p["name"], format_size(p["sent_bytes"]), *times)) + " |")
    return "\n".join(lines) + "\n"


def draw(study: Mapping[str, Any], found: Sequence[Row]) -> str:
    """Draw AUC lost against bytes saved as SVG text."""
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
        return svg_text(figure, "Bytes saved and AUC lost by codec")


def main(arguments: list[str] | None = None) -> int:
    parser = study_parser(__doc__, HERE)
    parser.add_argument("--train", action="store_true", help="repeat every training first")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("out/codecs"),
        help="folder that keeps finished trainings, so that an interrupted --train resumes",
    )
    options = parser.parse_args(arguments)

    study = read_toml(HERE / "study.toml")
    if options.train:
        write_text(HERE / "codecs.csv", data_csv(train(study, options.runs), COLUMNS))
    found = findings(study, read(HERE / "codecs.csv"))
    priced = prices(study)
    files = {"prices.csv": data_csv(priced, PRICES), "codecs.svg": draw(study, found)}
    wrong = "" if all(f["bytes_match"] for f in found) else "recorded bytes deviate from the formula"
    return conclude(HERE, options, table(study, found, priced), files, {"codecs": found, "prices": priced}, wrong=wrong)


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
