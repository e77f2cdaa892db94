"""Compare synchronous with asynchronous training: AUC at equal samples, AUC in equal time, and the time to an AUC.

    python studies/time_to_auc/plot.py            # write tables, findings and time_to_auc.svg from what is recorded
    python studies/time_to_auc/plot.py --update   # replace expected.json by the findings
    python studies/time_to_auc/plot.py --quick    # train and predict a part anew, a minute; compares, writes nothing

record.py writes curves.csv and times.json. Exits 3 when the findings differ from expected.json, or --quick from the
record.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dessim.files import read_json, read_toml
from dessim.results.rows import data_csv
from dessim.results.study import conclude, run_study, study_parser
from dessim.results.style import house_style, strategy_label, style_of
from dessim.results.svg import svg_text
from dessim.units import format_time

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from claims import ASYNC, FAILS, HOLDS, OPEN, SERVERS, SYNC, SYNCHRONOUS, compare, curves_of, epoch_s  # noqa: E402

NAMES = {"sgd": "SGD", "adagrad": "Adagrad", "adam": "Adam"}
EQUAL = {"samples": "equal samples", **{s: f"equal time, {strategy_label(s)}" for s in SYNCHRONOUS}}
WORDS = {HOLDS: "holds", OPEN: "open", FAILS: "fails"}
STRATEGIES = (*SYNCHRONOUS, SERVERS)
COLORS = {SYNC: style_of("des_all_reduce").color, ASYNC: "#c44e1c"}
DRAWN_WORKERS = 16  # in the panels of AUC by time

Row = Mapping[str, Any]


def to_target(study: Mapping[str, Any], times: Row, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The seconds to the target AUC for every case and strategy, over seeds; None where not every seed reaches it."""
    part = study["training"]
    found = []
    for split in part["splits"]:
        for optimizer in part["rates"]:
            for workers in part["workers"]:
                seconds: dict[str, Any] = dict.fromkeys(STRATEGIES)
                for strategy in STRATEGIES if workers in study["hosts"]["timed_workers"] else ():
                    mode = ASYNC if strategy == SERVERS else SYNC
                    curves = curves_of(study, rows, split, optimizer, mode, workers)
                    reached = curves.epochs_to(study["claim"]["targets"][split])
                    of_epoch = epoch_s(study, times, strategy, workers)
                    seconds[strategy] = None if reached is None else _mean_sd(reached[1] * of_epoch)
                found.append({"split": split, "optimizer": optimizer, "workers": workers, **seconds})
    return found


def _mean_sd(seconds: Any) -> list[float]:
    return [float(f"{value:.4g}") for value in (seconds.mean(), seconds.std(ddof=1))]


def table(study: Mapping[str, Any], times: Row, gaps: Sequence[Row], targets: Sequence[Row]) -> str:
    """Markdown tables: steps and lags; the claim in every case; seconds to the target AUC."""
    lines = [
        f"Recorded on {times['machine']}, {times['cpu_seconds'] / 60:.0f} minutes of CPU time.",
        "",
        f"| workers | {' | '.join(strategy_label(s) for s in STRATEGIES)} | missed updates: mean | 95 % | most |",
        f"|---:|{'---:|' * (len(STRATEGIES) + 3)}",
    ]
    for row in times["steps"]:
        steps = " | ".join(format_time(row["step_s"][s], 3) if s in row["step_s"] else "-" for s in STRATEGIES)
        lag = row["lag"]
        lines.append(f"| {row['workers']} | {steps} | {lag['mean']:.1f} | {lag['p95']:.0f} | {lag['max']} |")
    lines += [
        "",
        f"| split | optimizer | workers | {' | '.join(EQUAL.values())} |",
        f"|---|---|---:|{'---|' * len(EQUAL)}",
    ]
    for split, optimizer, workers in _cases(study):
        cells = []
        for equal in EQUAL if workers in study["hosts"]["timed_workers"] else list(EQUAL)[:1]:
            gap = _one(gaps, split=split, optimizer=optimizer, workers=workers, equal=equal)
            shown = f"{gap['gap']:+.4f} ± {gap['half_width']:.4f}"
            cells.append(
                f"**{shown}**, {WORDS[gap['claim']]}" if gap["claim"] == HOLDS else f"{shown}, {WORDS[gap['claim']]}"
            )
        cells += ["-"] * (len(EQUAL) - len(cells))
        lines.append(f"| {split} | {NAMES[optimizer]} | {workers} | {' | '.join(cells)} |".replace("-0", "−0"))
    lines += ["", _targets_head(study), f"|---|---|---:|{'---:|' * len(STRATEGIES)}"]
    for row in targets:
        if row["workers"] not in study["hosts"]["timed_workers"]:
            continue
        cells = []
        for strategy in STRATEGIES:
            found = row[strategy]
            cells.append("not reached" if found is None else f"{found[0]:.3g} ± {found[1]:.2g} s")
        lines.append(f"| {row['split']} | {NAMES[row['optimizer']]} | {row['workers']} | {' | '.join(cells)} |")
    shares = [f"{100 * times['unseen_users'][split]:.1f} % of the {split} split" for split in ("time", "random")]
    lines += ["", f"Test rows whose users rated nothing in the training samples: {' and '.join(shares)}."]
    return "\n".join(lines) + "\n"


def _targets_head(study: Mapping[str, Any]) -> str:
    targets = " and ".join(f"{auc} ({split})" for split, auc in study["claim"]["targets"].items())
    return f"| time to AUC {targets} | optimizer | workers | {' | '.join(strategy_label(s) for s in STRATEGIES)} |"


def _cases(study: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    part = study["training"]
    return [(s, o, w) for s in part["splits"] for o in part["rates"] for w in part["workers"]]


def _one(rows: Sequence[Row], **wanted: Any) -> Row:
    (row,) = (row for row in rows if all(row[key] == value for key, value in wanted.items()))
    return row


def draw(study: Mapping[str, Any], times: Row, rows: Sequence[Row]) -> str:
    """Draw as SVG text: AUC after all epochs by workers, for both splits, and AUC by time."""
    part = study["training"]
    with house_style() as plt:
        figure, panels = plt.subplots(3, len(part["rates"]), figsize=(10.2, 8.6))
        for column, optimizer in enumerate(part["rates"]):
            for axes, split in zip(panels[:2, column], part["splits"], strict=True):
                _by_workers(axes, study, rows, split, optimizer)
                axes.set_title(f"{NAMES[optimizer]}, {split} split", loc="left")
            _by_time(panels[2, column], study, times, rows, optimizer)
            panels[2, column].set_title(f"{NAMES[optimizer]}, {DRAWN_WORKERS} workers", loc="left")
        after = f"test AUC, {part['epochs']} epochs"
        for row, label in enumerate((after, after, "test AUC, random split")):
            panels[row, 0].set_ylabel(label)
        panels[0, -1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
        panels[2, -1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
        return svg_text(figure, "AUC of synchronous and asynchronous training")


def _by_workers(axes: Any, study: Mapping[str, Any], rows: Sequence[Row], split: str, optimizer: str) -> None:
    workers = study["training"]["workers"]
    for mode, label, shift in ((SYNC, "synchronous", 0.96), (ASYNC, "asynchronous", 1.04)):
        aucs = np.array([curves_of(study, rows, split, optimizer, mode, n).best()[1] for n in workers])
        axes.errorbar(
            [shift * n for n in workers], aucs.mean(axis=1), yerr=aucs.std(axis=1, ddof=1), color=COLORS[mode],
            marker="o" if mode == SYNC else "s", ms=5, lw=1.2, capsize=3, label=f"{label}, best rate",
        )  # fmt: skip
        for r, _ in enumerate(study["training"]["rates"][optimizer]):
            found = [curves_of(study, rows, split, optimizer, mode, n) for n in workers]
            means = [one.test[r, np.arange(len(one.test[r])), one.validation[r].argmax(axis=1)].mean() for one in found]
            axes.plot(
                [shift * n for n in workers], means, color=COLORS[mode], ls="", marker="o" if mode == SYNC else "s",
                ms=3, alpha=0.45, mfc="none", label=f"{label}, other rates" if r == 0 else None,
            )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(workers, [str(n) for n in workers])
    axes.set(xlabel="workers")


def _by_time(axes: Any, study: Mapping[str, Any], times: Row, rows: Sequence[Row], optimizer: str) -> None:
    for strategy in STRATEGIES:
        look = style_of(strategy)
        curves = curves_of(study, rows, "random", optimizer, ASYNC if strategy == SERVERS else SYNC, DRAWN_WORKERS)
        aucs = curves.curve(curves.best()[0])
        seconds = curves.epochs * epoch_s(study, times, strategy, DRAWN_WORKERS)
        mean, spread = aucs.mean(axis=0), aucs.std(axis=0, ddof=1)
        color = COLORS[ASYNC] if strategy == SERVERS else look.color
        line = {"ls": (0, look.dash) if look.dash else "-", "marker": look.marker, "ms": 4, "lw": 1.2}
        axes.plot(seconds, mean, color=color, label=look.label, **line)
        axes.fill_between(seconds, mean - spread, mean + spread, color=color, alpha=0.2, lw=0)
    axes.set_xscale("log")
    axes.set_xticks([0.1, 1.0, 10.0], ["0.1", "1", "10"])
    axes.minorticks_off()
    axes.set(xlabel="time (s)")


def main(arguments: list[str] | None = None) -> int:
    parser = study_parser(__doc__, HERE, quick="repeat a part of the record and compare")
    options = parser.parse_args(arguments)
    if options.quick:
        from record import main as record

        return record(["--quick"])
    study = read_toml(HERE / "study.toml")
    times = read_json(HERE / "times.json")
    rows = list(csv.DictReader((HERE / "curves.csv").read_text("utf-8").splitlines()))
    gaps = compare(study, times, rows)
    targets = to_target(study, times, rows)
    columns = ("split", "optimizer", "workers", "equal", "seconds", "sync_rate", "async_rate", "sync_auc", "async_auc")
    files = {
        "claims.csv": data_csv(gaps, (*columns, "gap", "half_width", "claim")),
        "time_to_auc.svg": draw(study, times, rows),
    }
    return conclude(HERE, options, table(study, times, gaps, targets), files, {"claims": gaps, "targets": targets})


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
