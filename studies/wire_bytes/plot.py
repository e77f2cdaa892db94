"""Frames that the kernel counted beside the bytes of the plan, strategy by strategy.

    python studies/wire_bytes/plot.py     # from wire_bytes.csv: writes the table and wire_bytes.svg

measure.py makes wire_bytes.csv. Exits 3 when a case is missing or its ratio is outside the bounds of study.toml.
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
HEADERS = 1514 / 1448  # a full Ethernet frame over its payload: IP, TCP with time stamps
MB = 1e6
LOOKS = (("o", "#0173b2"), ("s", "#56b4e9"), ("D", "#d55e00"), ("^", "#de8f05"))  # of model and ranks


def load(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows of a CSV with numbers as numbers, and the comment before them."""
    first, _, rest = path.read_text("utf-8").partition("\n")
    words = ("model", "strategy")
    rows = [{k: v if k in words else int(v) for k, v in row.items()} for row in csv.DictReader(rest.splitlines())]
    return rows, first.removeprefix("# ")


def ratio(row: dict[str, Any]) -> float:
    return float(row["frame_bytes"] / row["payload_bytes"])


def table(study: dict[str, Any], rows: list[dict[str, Any]], machine: str) -> str:
    """In Markdown: megabytes a step, all hosts together."""
    lines = [f"Measured on {machine}.", ""]
    for model, batch in study["batch"].items():
        heads = [f"{ranks} ranks: plan | frames | ratio" for ranks in study["ranks"]]
        lines += [
            f"**{model}**, batch {batch:,}; MB a step, all hosts together",
            "",
            f"| strategy | {' | '.join(heads)} |",
            "|---|" + "---:|" * 3 * len(heads),
        ]
        for strategy in study["strategies"]:
            cells = []
            for ranks in study["ranks"]:
                row = _row(rows, model, ranks, strategy)
                sizes = [row[f"{what}_bytes"] / MB for what in ("payload", "frame")]
                cells += [*(f"{size:.3f}" for size in sizes), f"{ratio(row):.3f}"]
            lines.append(f"| {strategy_label(strategy)} | {' | '.join(cells)} |")
        lines.append("")
    every = [ratio(row) for row in rows]
    lines.append(
        f"{len(every)} cases: from {min(every):.3f} to {max(every):.3f}, bytes of frames over bytes of payload."
    )
    return "\n".join(lines) + "\n"


def _row(rows: list[dict[str, Any]], *case: Any) -> dict[str, Any]:
    (row,) = (row for row in rows if (row["model"], row["ranks"], row["strategy"]) == case)
    return row


def draw(study: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The figure as SVG text: the ratio of every case."""
    order = study["strategies"]
    with house_style() as plt:
        figure, axes = plt.subplots(figsize=(6.4, 3.0))
        axes.axvspan(study["at_least"], study["at_most"], color=FAINT, alpha=0.12, lw=0)
        axes.axvline(HEADERS, color=FAINT, lw=1, ls="--")
        cases = [(model, ranks) for model in study["batch"] for ranks in study["ranks"]]
        for (model, ranks), (marker, color) in zip(cases, LOOKS, strict=True):
            here = [row for row in rows if (row["model"], row["ranks"]) == (model, ranks)]
            places = [order.index(row["strategy"]) for row in here]
            label = f"{model}, {ranks} ranks"
            axes.scatter([ratio(row) for row in here], places, s=32, marker=marker, color=color, label=label, zorder=3)
        axes.set_yticks(range(len(order)), [strategy_label(strategy) for strategy in order])
        axes.set(xlabel="bytes of frames / bytes of payload", ylim=(len(order) - 0.5, -0.5))
        axes.text(HEADERS, -0.6, "full frames", ha="center", va="bottom", fontsize="small")
        axes.grid(True, axis="x")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        return svg_text(figure, "Frames over payload, by strategy")


def problems(study: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """A sentence for each case that is missing or outside the bounds."""
    said = []
    for model in study["batch"]:
        for ranks in study["ranks"]:
            for strategy in study["strategies"]:
                found = [r for r in rows if (r["model"], r["ranks"], r["strategy"]) == (model, ranks, strategy)]
                case = f"{model} on {ranks} ranks, {strategy}"
                if len(found) != 1:
                    said.append(f"{case}: measured {len(found)} times; run measure.py")
                elif not study["at_least"] <= ratio(found[0]) <= study["at_most"]:
                    said.append(f"{case}: {ratio(found[0]):.3f} bytes a byte of payload")
    return said


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder for what is written (default: here)")
    options = parser.parse_args(arguments)
    study = read_toml(HERE / "study.toml")
    rows, machine = load(HERE / "wire_bytes.csv")
    if said := problems(study, rows):
        print(*(f"wire_bytes: {line}" for line in said), sep="\n", file=sys.stderr)
        return 3
    made = table(study, rows, machine)
    write_text(options.out / "README.md", page(HERE, made))
    write_text(options.out / "wire_bytes.svg", draw(study, rows))
    print(made, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
