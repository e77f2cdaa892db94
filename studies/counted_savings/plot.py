"""Compare the bytes that DES saves from a parameter server, counted on the lab, with those of the formulas.

    python studies/counted_savings/plot.py            # write the table, savings.csv and counted_savings.svg
    python studies/counted_savings/plot.py --update   # replace expected.json by the findings
    sudo .venv/bin/python studies/counted_savings/plot.py --quick    # count a few cases anew; writes nothing

measure.py writes counted.csv. Exits 3 when a bound of study.toml is broken, or when the findings differ from
expected.json.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dessim.files import read_toml
from dessim.results.rows import data_csv
from dessim.results.study import conclude, run_study, study_parser
from dessim.results.style import FAINT, house_style
from dessim.results.svg import svg_text
from dessim.units import percent

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from formula import model_of, saved  # noqa: E402
from measure import measure  # noqa: E402

CASE = ("model", "ids_per_sample", "hosts")
RESULTS = ("counted_saved", "counted_sd", "least", "most", "formula_saved", "frames_per_payload")
COLORS = ("#0173b2", "#de8f05", "#029e73", "#cc78bc")  # one for each number of hosts
MARKERS = "os^D"
LOWEST = -100  # % saved where the axis ends

Row = dict[str, Any]


def load(path: Path) -> tuple[list[Row], str]:
    """Read counted.csv, numbers as numbers, and the comment on its first line, which names the machine."""
    first, _, rest = path.read_text("utf-8").partition("\n")
    text = ("model", "strategy")
    rows = [{k: v if k in text else int(v) for k, v in row.items()} for row in csv.DictReader(rest.splitlines())]
    return rows, first.removeprefix("# ")


def compare(study: Mapping[str, Any], counted: Sequence[Row]) -> list[Row]:
    """The share of bytes that DES saves in each case: counted, over seeds, and by formula.

    Raises KeyError where a case is missing.
    """
    frames = {(*(row[key] for key in CASE), row["strategy"], row["seed"]): row["frame_bytes"] for row in counted}
    ratios = {
        (*(row[key] for key in CASE), row["strategy"], row["seed"]): row["frame_bytes"] / row["payload_bytes"]
        for row in counted
    }
    des, servers = study["strategies"]
    rows = []
    for entry in study["models"]:
        for ids in study["ids_per_sample"]:
            model = model_of(study, entry, ids)
            for hosts in study["hosts"]:
                case = (entry["name"], ids, hosts)
                shares = [1 - frames[(*case, des, seed)] / frames[(*case, servers, seed)] for seed in study["seeds"]]
                worst = max(ratios[(*case, name, seed)] for name in (des, servers) for seed in study["seeds"])
                values = (
                    *(np.mean(shares), np.std(shares, ddof=1), min(shares), max(shares)),
                    *(saved(model, (des, servers), hosts), worst),
                )
                rows.append(dict(zip(CASE, case, strict=True)) | _rounded(values))
    return rows


def _rounded(values: Sequence[float]) -> Row:
    return {key: round(float(value), 5) for key, value in zip(RESULTS, values, strict=True)}


def findings(study: Mapping[str, Any], rows: Sequence[Row]) -> list[Row]:
    """For each model and number of hosts: the most that is saved, and from how many ids a sample on the claim holds.

    The claim holds in a case if every seed saves as much; None: in no case.
    """
    found = []
    for entry in study["models"]:
        for hosts in study["hosts"]:
            mine = [row for row in rows if (row["model"], row["hosts"]) == (entry["name"], hosts)]
            holds = [row["ids_per_sample"] for row in mine if row["least"] >= study["claim"]["saved"]]
            best = max(mine, key=lambda row: row["counted_saved"])
            found.append(
                {
                    "model": entry["name"],
                    "hosts": hosts,
                    "most_saved": round(best["counted_saved"], 3),
                    "at_ids": best["ids_per_sample"],
                    "claim_holds_from_ids": min(holds, default=None),
                    "sends_less_from_ids": min(
                        (row["ids_per_sample"] for row in mine if row["counted_saved"] > 0), default=None
                    ),
                }
            )
    return found


def problems(study: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The first case in which DES saves, but not as much as by formula (study.toml has the bound); empty if none."""
    for row in rows:
        if row["formula_saved"] > 0 and abs(row["counted_saved"] - row["formula_saved"]) > study["bounds"]["saved"]:
            case = f"{row['model']}, {row['ids_per_sample']} ids, {row['hosts']} hosts"
            return f"{case}: saves {row['counted_saved']:.3f}, by formula {row['formula_saved']:.3f}"
    return ""


def table(study: Mapping[str, Any], rows: Sequence[Row], machine: str) -> str:
    """A Markdown table: counted savings with their spread over seeds, and those of the formula."""
    lines = [
        f"Counted on {machine}.",
        "",
        f"| model | ids a sample | {' | '.join(f'{n} hosts: counted | formula' for n in study['hosts'])} |",
        f"|---|---:|{'---:|' * 2 * len(study['hosts'])}",
    ]
    for entry in study["models"]:
        for ids in study["ids_per_sample"]:
            mine = [row for row in rows if (row["model"], row["ids_per_sample"]) == (entry["name"], ids)]
            cells = []
            for row in mine:
                counted = f"{100 * row['counted_saved']:.1f} ± {100 * row['counted_sd']:.1f} %"
                holds = row["least"] >= study["claim"]["saved"]
                cells += [f"**{counted}**" if holds else counted, f"{100 * row['formula_saved']:.1f} %"]
            lines.append(f"| {entry['name']} | {ids} | {' | '.join(cells)} |".replace("-", "−"))
    worst = max(abs(row["counted_saved"] - row["formula_saved"]) for row in rows if row["formula_saved"] > 0)
    most = max(row["frames_per_payload"] for row in rows)
    lines += [
        "",
        f"Mean and standard deviation over {len(study['seeds'])} seeds; bold: every seed saves 68.7 % or more.",
        f"Where DES saves, the formula is off by at most {percent(worst)} of the server's bytes. Frames are at most",
        f"{most:.2f} times the payload.",
    ]
    return "\n".join(lines) + "\n"


def draw(study: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Draw as SVG text: lines by formula, points counted, bars from the least to the most of the seeds."""
    claim = 100 * study["claim"]["saved"]
    with house_style() as plt:
        figure, panels = plt.subplots(1, len(study["models"]), figsize=(10.2, 3.6), sharey=True)
        for axes, entry in zip(panels, study["models"], strict=True):
            axes.axhspan(LOWEST - 10, 0, color="#d55e00", alpha=0.07, lw=0)
            axes.axhline(0, color=FAINT, lw=0.8)
            axes.axhline(claim, color="#333333", lw=1, ls=(0, (4, 3)), label="68.7 % (paper)")
            for hosts, color, marker in zip(study["hosts"], COLORS, MARKERS, strict=True):
                mine = [row for row in rows if (row["model"], row["hosts"]) == (entry["name"], hosts)]
                ids = [row["ids_per_sample"] for row in mine]
                axes.plot(ids, [100 * row["formula_saved"] for row in mine], color=color, lw=1.2)
                means = np.array([row["counted_saved"] for row in mine])
                bars = [means - [row["least"] for row in mine], [row["most"] for row in mine] - means]
                axes.errorbar(
                    ids, 100 * means, yerr=100 * np.array(bars), color=color, marker=marker, ms=5, ls="", capsize=3,
                    label=f"{hosts} hosts", zorder=3,
                )  # fmt: skip
            axes.set_xscale("log")
            axes.set_xticks(study["ids_per_sample"], [str(ids) for ids in study["ids_per_sample"]])
            axes.minorticks_off()
            axes.set(xlabel="ids per sample", ylim=(LOWEST, 100))
            axes.set_title(entry["name"], loc="left")
        panels[0].set_ylabel("bytes saved by DES (%)")
        panels[-1].text(study["ids_per_sample"][0], LOWEST + 4, "here DES sends more", color="#a34700", size="small")
        panels[-1].legend(
            loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, title="points: counted\nlines: formula"
        )
        return svg_text(figure, "Bytes saved by DES, counted and by formula")


def check(study: Mapping[str, Any], counted: Sequence[Row]) -> int:
    """Count the cases of two hosts and one seed anew; return 3 when their bytes differ by a percent from those kept."""
    few = {**study, "hosts": study["hosts"][:1], "seeds": study["seeds"][:1], "models": study["models"][1:2]}
    rows, _ = measure(few)
    code = 0
    for row in rows:
        key = ("model", "ids_per_sample", "hosts", "strategy", "seed")
        (kept,) = (one for one in counted if all(one[k] == row[k] for k in key))
        ratio = row["frame_bytes"] / kept["frame_bytes"]
        print(
            f"{row['ids_per_sample']:3} ids, {row['strategy']}: {row['frame_bytes']:,} bytes, {ratio:.4f} of those kept"
        )
        code = code if abs(ratio - 1) <= 0.01 else 3
    return code


def main(arguments: list[str] | None = None) -> int:
    parser = study_parser(__doc__, HERE, quick="count a few cases on the lab and compare (root)")
    options = parser.parse_args(arguments)
    study = read_toml(HERE / "study.toml")
    counted, machine = load(HERE / "counted.csv")
    if options.quick:
        return check(study, counted)
    rows = compare(study, counted)
    files = {"savings.csv": data_csv(rows, (*CASE, *RESULTS)), "counted_savings.svg": draw(study, rows)}
    found = findings(study, rows)
    return conclude(HERE, options, table(study, rows, machine), files, found, wrong=problems(study, rows))


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
