"""Compare the frames that the kernel counted with the bytes of the plan, strategy by strategy.

    python studies/wire_bytes/plot.py     # write the tables and wire_bytes.svg from wire_bytes.csv

measure.py writes wire_bytes.csv. Exits 3 when a case is missing or its ratio is outside the bounds of study.toml.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

from dessim.files import read_toml, write_text
from dessim.results.study import page
from dessim.results.style import FAINT, house_style, strategy_label
from dessim.results.svg import svg_text

HERE = Path(__file__).parent
FULL_FRAME_RATIO = 1514 / 1448  # bytes of a full Ethernet frame over its payload: IP, TCP with time stamps
MB = 1e6
MARKERS = (("o", "#0173b2"), ("s", "#56b4e9"), ("D", "#d55e00"), ("^", "#de8f05"))  # one per model and number of ranks


def load(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Read a CSV, numbers as numbers, and the comment on its first line, which names the machine."""
    first, _, rest = path.read_text("utf-8").partition("\n")
    text_columns = ("model", "strategy")
    rows = [
        {k: v if k in text_columns else int(v) for k, v in row.items()} for row in csv.DictReader(rest.splitlines())
    ]
    return rows, first.removeprefix("# ")


def ratio(row: dict[str, Any]) -> float:
    """Return bytes of frames per byte of payload."""
    return float(row["frame_bytes"] / row["payload_bytes"])


def table(study: dict[str, Any], rows: list[dict[str, Any]], machine: str) -> str:
    """Return Markdown tables of megabytes per step, all hosts together."""
    lines = [f"Measured on {machine}.", ""]
    for model, batch in study["batch"].items():
        heads = [f"{ranks} ranks: plan | frames | ratio" for ranks in study["ranks"]]
        lines += [
            f"**{model}**, batch {batch:,}; MB per step, all hosts together",
            "",
            f"| strategy | {' | '.join(heads)} |",
            "|---|" + "---:|" * 3 * len(heads),
        ]
        for strategy in study["strategies"]:
            cells = []
            for ranks in study["ranks"]:
                row = _row(rows, model, ranks, strategy)
                sizes = [row["payload_bytes"] / MB, row["frame_bytes"] / MB]
                cells += [*(f"{size:.3f}" for size in sizes), f"{ratio(row):.3f}"]
            lines.append(f"| {strategy_label(strategy)} | {' | '.join(cells)} |")
        lines.append("")
    ratios = [ratio(row) for row in rows]
    span = f"from {min(ratios):.3f} to {max(ratios):.3f}"
    lines.append(f"{len(ratios)} cases: {span} bytes of frames per byte of payload.")
    return "\n".join(lines) + "\n"


def _row(rows: list[dict[str, Any]], *case: Any) -> dict[str, Any]:
    (row,) = (row for row in rows if (row["model"], row["ranks"], row["strategy"]) == case)
    return row


def draw(study: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Draw the ratio of every case as SVG text."""
    order = study["strategies"]
    with house_style() as plt:
        figure, axes = plt.subplots(figsize=(6.4, 3.0))
        axes.axvspan(study["at_least"], study["at_most"], color=FAINT, alpha=0.12, lw=0)
        axes.axvline(FULL_FRAME_RATIO, color=FAINT, lw=1, ls="--")
        cases = [(model, ranks) for model in study["batch"] for ranks in study["ranks"]]
        for (model, ranks), (marker, color) in zip(cases, MARKERS, strict=True):
            shown = [row for row in rows if (row["model"], row["ranks"]) == (model, ranks)]
            ratios = [ratio(row) for row in shown]
            places = [order.index(row["strategy"]) for row in shown]
            label = f"{model}, {ranks} ranks"
            axes.scatter(ratios, places, s=32, marker=marker, color=color, label=label, zorder=3)
        axes.set_yticks(range(len(order)), [strategy_label(strategy) for strategy in order])
        axes.set(xlabel="bytes of frames / bytes of payload", ylim=(len(order) - 0.5, -0.5))
        axes.text(FULL_FRAME_RATIO, -0.6, "full frames", ha="center", va="bottom", fontsize="small")
        axes.grid(True, axis="x")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        return svg_text(figure, "Frames over payload, by strategy")


def problems(study: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """Return a sentence for each case that is missing or outside the bounds."""
    sentences = []
    for model in study["batch"]:
        for ranks in study["ranks"]:
            for strategy in study["strategies"]:
                key = (model, ranks, strategy)
                measured = [row for row in rows if (row["model"], row["ranks"], row["strategy"]) == key]
                case = f"{model} on {ranks} ranks, {strategy}"
                if len(measured) != 1:
                    sentences.append(f"{case}: measured {len(measured)} times; run measure.py")
                elif not study["at_least"] <= ratio(measured[0]) <= study["at_most"]:
                    sentences.append(f"{case}: {ratio(measured[0]):.3f} bytes of frames per byte of payload")
    return sentences


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="output folder (default: this study)")
    options = parser.parse_args(arguments)
    study = read_toml(HERE / "study.toml")
    rows, machine = load(HERE / "wire_bytes.csv")
    if sentences := problems(study, rows):
        print(*(f"wire_bytes: {line}" for line in sentences), sep="\n", file=sys.stderr)
        return 3
    tables = table(study, rows, machine)
    write_text(options.out / "README.md", page(HERE, tables))
    write_text(options.out / "wire_bytes.svg", draw(study, rows))
    print(tables, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
