"""Compare DES with parameter servers on the lab: samples per second and bytes, measured and predicted.

    python studies/des_against_ps/plot.py            # write tables, des_against_ps.csv and .svg from measured.json
    python studies/des_against_ps/plot.py --update   # replace expected.json by the findings

measure.py writes measured.json. Exits 3 when the findings differ from expected.json.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dessim.calibrate.profile import fit_profile
from dessim.cluster import load_cluster
from dessim.commands.support.lab_training import Trained
from dessim.files import read_toml
from dessim.results.rows import data_csv
from dessim.results.study import conclude, study_parser
from dessim.results.style import INK, house_style, strategy_label, style_of
from dessim.results.svg import svg_text
from dessim.units import format_time, percent
from dessim.validate.step_cases import StepCase, step_cases
from dessim.validate.steps import captured_of, payload_of, predict

HERE = Path(__file__).parent
DES = ("des_all_reduce", "des_reduce_scatter")
SERVERS = ("ps_sync", "ps_async")
CASE = ("model", "hosts", "rate_Mbps", "strategy", "workers", "servers", "batch")
RESULTS = (
    *("measured_step_s", "predicted_step_s", "measured_samples_per_s", "predicted_samples_per_s"),
    *("frame_bytes_per_sample", "planned_bytes_per_sample", "predicted_bytes_per_sample"),
)


@contextmanager
def in_study_folder() -> Iterator[None]:
    """Work in this folder: study.toml names its beds by paths relative to it."""
    before = Path.cwd()
    os.chdir(HERE)
    try:
        yield
    finally:
        os.chdir(before)


def cases_of(study: dict[str, Any]) -> list[StepCase]:
    """The study's cases, all of them held out."""
    return step_cases(study, ["held_out"], quick=False)


def compute(cases: Sequence[StepCase], measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Predict the cases; return one row per case, rounded to five digits so that all machines agree."""
    transport = fit_profile(measured["calibration"]).transport
    return [_row(case, measured, transport) for case in cases]


def _row(case: StepCase, measured: dict[str, Any], transport: Any) -> dict[str, Any]:
    ran = Trained(measured["trained"][case.name])
    captures = captured_of(case, measured)
    batch = case.batch * case.workers
    step_s = predict(case, captures, transport, measured["cores"])
    results = (
        *(ran.step_s, step_s, batch / ran.step_s, batch / step_s),
        *(ran.frames / batch, ran.payload / batch, payload_of(case, captures) / batch),
    )
    bed = load_cluster(case.bed)
    rate = round(8e-6 * bed.node.nic.rate)
    key = (case.model, bed.n_gpus, rate, case.strategy, case.workers, case.servers, batch)
    return dict(zip(CASE, key, strict=True)) | {
        key: float(f"{value:.5g}") for key, value in zip(RESULTS, results, strict=True)
    }


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare each DES strategy with each kind of parameter server: speed-up, and share of bytes saved."""
    pairs = []
    for row in rows:
        if row["strategy"] not in DES:
            continue
        for other in rows:
            if other["strategy"] in SERVERS and all(row[key] == other[key] for key in ("model", "hosts", "rate_Mbps")):
                pairs.append(
                    {
                        **{key: row[key] for key in ("model", "hosts", "rate_Mbps", "strategy")},
                        "against": other["strategy"],
                        **{
                            f"{how}_speedup": _round(row[f"{how}_samples_per_s"] / other[f"{how}_samples_per_s"])
                            for how in ("measured", "predicted")
                        },
                        "measured_saved": _round(1 - row["frame_bytes_per_sample"] / other["frame_bytes_per_sample"]),
                        "predicted_saved": _round(
                            1 - row["predicted_bytes_per_sample"] / other["predicted_bytes_per_sample"]
                        ),
                    }
                )
    return pairs


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def table(rows: list[dict[str, Any]], pairs: list[dict[str, Any]], machine: str) -> str:
    """Return two Markdown tables: every case, and DES against each kind of parameter server."""
    lines = [
        f"Measured on {machine}.",
        "",
        "| model | hosts | Mb/s | strategy | step, measured | predicted | error | samples/s, measured | predicted "
        "| KB per sample, counted | predicted |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        measured_s = row["measured_step_s"]
        predicted_s = row["predicted_step_s"]
        lines.append(
            f"| {row['model']} | {row['hosts']} | {row['rate_Mbps']} | {strategy_label(row['strategy'])} "
            f"| {format_time(measured_s, 3)} | {format_time(predicted_s, 3)} "
            f"| {percent(predicted_s / measured_s - 1, signed=True)} "
            f"| {row['measured_samples_per_s']:,.0f} | {row['predicted_samples_per_s']:,.0f} "
            f"| {row['frame_bytes_per_sample'] / 1e3:.2f} | {row['predicted_bytes_per_sample'] / 1e3:.2f} |"
        )
    lines += [
        "",
        "| model | hosts | Mb/s | strategy | against | speed-up, measured | predicted "
        "| bytes saved, counted | predicted |",
        "|---|---:|---:|---|---|---:|---:|---:|---:|",
    ]
    for pair in pairs:
        lines.append(
            f"| {pair['model']} | {pair['hosts']} | {pair['rate_Mbps']} | {strategy_label(pair['strategy'])} "
            f"| {strategy_label(pair['against'])} | **{pair['measured_speedup']:.2f}** "
            f"| {pair['predicted_speedup']:.2f} | **{percent(pair['measured_saved'])}** "
            f"| {percent(pair['predicted_saved'])} |"
        )
    return "\n".join(lines) + "\n"


def _group(pair: dict[str, Any]) -> tuple[str, int, int, str]:
    return pair["model"], pair["hosts"], pair["rate_Mbps"], pair["against"]


def draw(pairs: list[dict[str, Any]]) -> str:
    """Draw speed-ups and bytes saved as SVG text, measured filled, predicted open."""
    names = list(dict.fromkeys(_group(pair) for pair in pairs))
    labels = [
        f"{model}, {hosts} x {rate} Mb/s, {'async' if to == 'ps_async' else 'sync'}" for model, hosts, rate, to in names
    ]
    with house_style() as plt:
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 4.4), sharey=True)
        for axes, what, scale in ((left, "speedup", 1.0), (right, "saved", 100.0)):
            for strategy, offset in zip(DES, (-0.14, 0.14), strict=True):
                look = style_of(strategy)
                shown = [pair for pair in pairs if pair["strategy"] == strategy]
                places = [names.index(_group(pair)) + offset for pair in shown]
                for how, fill in (("measured", look.color), ("predicted", "none")):
                    axes.scatter(
                        [scale * pair[f"{how}_{what}"] for pair in shown],
                        places,
                        s=34 if how == "measured" else 90,
                        marker=look.marker,
                        facecolor=fill,
                        edgecolor=look.color,
                        zorder=3,
                        label=f"{look.label}, {how}",
                    )
            axes.grid(True, axis="both")
        left.axvline(1.0, color=INK, lw=0.8)
        left.set_yticks(range(len(names)), labels)
        left.set(xlabel="speed-up over parameter servers", ylim=(len(names) - 0.5, -0.5), xlim=(0, None))
        right.set(xlabel="bytes saved (%)")
        right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        return svg_text(figure, "DES against parameter servers")


def main(arguments: list[str] | None = None) -> int:
    options = study_parser(__doc__, HERE).parse_args(arguments)
    study = read_toml(HERE / "study.toml")
    measured = json.loads((HERE / "measured.json").read_text("utf-8"))
    with in_study_folder():
        rows = compute(cases_of(study), measured)
    pairs = compared(rows)
    files = {
        "des_against_ps.csv": f"# {measured['machine']}\n" + data_csv(rows, (*CASE, *RESULTS)),
        "des_against_ps.svg": draw(pairs),
    }
    findings = {"rows": rows, "compared": pairs}
    return conclude(HERE, options, table(rows, pairs, measured["machine"]), files, findings)


if __name__ == "__main__":
    sys.exit(main())
