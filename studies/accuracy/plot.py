"""Train on MovieLens-100K: under DES and by one process, which must learn the same, and with servers that do not wait.

    python studies/accuracy/plot.py            # from accuracy.csv and curves.csv: writes the tables and accuracy.svg
    python studies/accuracy/plot.py --train    # trains everything anew for them
    python studies/accuracy/plot.py --train --keep FOLDER   # and goes on from what a run that was cut left there
    python studies/accuracy/plot.py --update   # makes what was found the expectation

Reads study.toml; trainings.py starts the trainings. Exits 3 when DES and one process do not agree, or when the findings
are not those of expected.json.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dessim.files import read_toml
from dessim.results.rows import data_csv
from dessim.results.study import conclude, run_study, study_parser
from dessim.results.style import FAINT, STRATEGY_STYLE, house_style
from dessim.results.svg import svg_text

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from trainings import COLUMNS, CURVE, DES, EQUALITY, ONE, STALENESS, result, trainings  # noqa: E402

GREY = "#6b6b6b"


def compare(study: Mapping[str, Any], rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Per split and model: AUC of one process and of DES, mean and deviation over seeds; `off`: how far the mean that
    is farther from the reference is from it; `apart`: the largest distance of DES from one process of the same seed."""
    found = []
    for split in study["equality"]["splits"]:
        for model in study["models"]:
            mine = rows[(rows.part == EQUALITY) & (rows.model == model["name"]) & (rows.split == split)]
            one, des = (mine[mine.method == method].set_index("seed").auc for method in (ONE, DES))
            reference = model["reference"][split]
            about = {"split": split, "model": model["name"], "reference": reference}
            means = {"one": float(one.mean()), "des": float(des.mean())}
            spread = {"one_sd": float(one.std()), "des_sd": float(des.std())}
            off = max((mean - reference for mean in means.values()), key=abs)
            found.append({**about, **means, **spread, "off": off, "apart": float((des - one).abs().max())})
    return found


def findings(study: Mapping[str, Any], rows: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """What expected.json keeps: AUCs of both parts, without digits that another machine would not have."""
    equal = [
        {"split": f["split"], "model": f["model"], "one": round(f["one"], 5), "des": round(f["des"], 5)}
        for f in compare(study, rows)
    ]
    late = rows[rows.part == STALENESS].groupby("method", sort=False).auc.mean()
    return {EQUALITY: equal, STALENESS: [{"method": name, "mean": round(float(auc), 4)} for name, auc in late.items()]}


def same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Equal, AUCs to 1e-4; to 0.003 where servers do not wait, so that no two runs are the same."""
    for part, within in ((EQUALITY, 1e-4), (STALENESS, 3e-3)):
        if len(found[part]) != len(expected[part]):
            return False
        for a, b in zip(found[part], expected[part], strict=True):
            if a.keys() != b.keys():
                return False
            if any(abs(a[k] - b[k]) > within if isinstance(a[k], float) else a[k] != b[k] for k in a):
                return False
    return True


def table(study: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """Two tables in Markdown: DES against one process and the reference, and against servers that do not wait."""
    part = study["equality"]
    heads = ["reference", ONE, f"{DES} on {study['workers']} workers", "off the reference", "apart, at most"]
    lines = [f"| cut | model | {' | '.join(heads)} |", f"|---|---|{'---:|' * len(heads)}"]
    for f in compare(study, rows):
        missed = "" if abs(f["off"]) <= part["reference"] else f", **more than {part['reference']}**"
        cells = [f"{f['reference']}", *(f"{f[m]:.4f} ± {f[f'{m}_sd']:.4f}" for m in ("one", "des"))]
        cells += [f"{round(f['off'], 4) + 0.0:+.4f}{missed}", f"{f['apart']:.0e}" if f["apart"] else "0"]
        lines.append(f"| {f['split']} | {f['model']} | {' | '.join(cells).replace('-', '−')} |")
    seeds = " | ".join(f"seed {seed}" for seed in study["staleness"]["seeds"])
    lines += [
        "",
        f"| method | {seeds} | held-out AUC | log loss | best epoch | steps ahead | pushes missed |",
        f"|---|{'---:|' * (len(study['staleness']['seeds']) + 5)}",
    ]
    stale = rows[rows.part == STALENESS]
    for method in study["staleness"]["methods"]:
        mine = stale[stale.method == method["name"]]
        each = " | ".join(f"{value:.4f}" for value in mine.auc)
        auc, logloss = (f"{mine[key].mean():.4f} ± {mine[key].std():.4f}" for key in ("auc", "logloss"))
        epochs = ", ".join(map(str, mine.best_epoch))
        late = "- | -"
        if "staleness" in method:
            pairs = ((mine.stale_mean, mine.stale_max), (mine.stale_missed_mean, mine.stale_missed_max))
            late = " | ".join(f"{mean.mean():.2f}, at most {most.max():.0f}" for mean, most in pairs)
        lines.append(f"| {method['name']} | {each} | {auc} | {logloss} | {epochs} | {late} |")
    return "\n".join(lines) + "\n"


def draw(study: Mapping[str, Any], rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """The figure as SVG text: DES on one process's AUC; validation AUC by epoch, mean and deviation over seeds."""
    with house_style() as plt:
        splits = study["equality"]["splits"]
        figure, panels = plt.subplots(1, len(splits) + 1, figsize=(10.2, 3.4), width_ratios=(*[1] * len(splits), 1.6))
        for axes, split in zip(panels, splits, strict=False):
            _equality_panel(axes, study, rows[(rows.part == EQUALITY) & (rows.split == split)], split)
        for axes in panels[1 : len(splits)]:
            axes.set_yticklabels([])
            axes.legend(loc="upper right", frameon=False, fontsize="small")
        _curves_panel(panels[-1], study, curves)
        return svg_text(figure, "What a model learns under DES and under stale gradients")


def _equality_panel(axes: Any, study: Mapping[str, Any], rows: pd.DataFrame, split: str) -> None:
    bound, names = study["equality"]["reference"], [m["name"] for m in study["models"]]
    for i, model in enumerate(study["models"]):
        low, label = model["reference"][split] - bound, f"reference ± {bound}" if not i else None
        axes.broken_barh([(low, 2 * bound)], (i - 0.3, 0.6), color=FAINT, alpha=0.35, lw=0, label=label)
    looks = {
        ONE: {"s": 110, "facecolors": "none", "edgecolors": GREY, "marker": "o"},
        DES: {"s": 45, "color": STRATEGY_STYLE["des_all_reduce"].color, "marker": "x"},  # the cross is inside the ring
    }
    for method, look in looks.items():
        mine = rows[rows.method == method]
        axes.scatter(mine.auc, mine.model.map(names.index), label=method, lw=1.4, zorder=3, **look)
    axes.set(xlabel="held-out AUC", ylabel="", ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(range(len(names)), names)
    axes.grid(True, axis="x")
    axes.set_title(f"cut: {split}", loc="left")


def _curves_panel(axes: Any, study: Mapping[str, Any], curves: pd.DataFrame) -> None:
    import seaborn as sns

    part = study["staleness"]
    names = [m["name"] for m in part["methods"]]
    served = [m["name"] for m in part["methods"] if "staleness" in m]
    colors = [STRATEGY_STYLE[s].color for s in ("des_all_reduce", "des_reduce_scatter")]
    palette = dict(zip([name for name in names if name not in served], colors, strict=False))
    palette |= dict(zip(served, sns.color_palette("flare", len(served)), strict=True))
    sns.lineplot(
        x=curves.epoch, y=curves.validation_auc, hue=curves.method, style=curves.method, hue_order=names,
        style_order=names, palette=palette, markers=dict(zip(names, "osPXD", strict=False)), dashes=False,
        markersize=5, errorbar="sd", ax=axes,
    )  # fmt: skip
    axes.set(xlabel="epoch", ylabel="validation AUC", xlim=(0.5, curves.epoch.max() + 0.5))
    axes.set_xticks(range(0, curves.epoch.max() + 1, 5))
    axes.legend(loc="lower right", frameon=False)
    axes.set_title(f"{part['model']}, {study['workers']} workers, {len(part['seeds'])} seeds", loc="left")


def train_all(study: Mapping[str, Any], runs: Path) -> tuple[str, str]:
    """accuracy.csv and curves.csv, of trainings whose results are kept in `runs`. Raises DessimError."""
    rows, curves, wanted = [], [], list(trainings(study))
    for i, training in enumerate(wanted, 1):
        row, curve = result(training, study, runs)
        rows.append(row)
        curves += curve
        print(f"{i} of {len(wanted)}: {training.name}: AUC {row['auc']:.4f}", file=sys.stderr, flush=True)
    return data_csv(rows, COLUMNS), data_csv(curves, CURVE)


def main(arguments: list[str] | None = None) -> int:
    parser = study_parser(__doc__, HERE)
    parser.add_argument("--train", action="store_true", help="train everything anew (an hour on two cores)")
    parser.add_argument("--keep", type=Path, help="folder for what --train has so far; it goes on from what is there")
    parser.add_argument("--study", type=Path, default=HERE / "study.toml", help="default: the one beside this file")
    options = parser.parse_args(arguments)

    study, names = read_toml(options.study), ("accuracy.csv", "curves.csv")
    if options.train:
        with tempfile.TemporaryDirectory() as scratch:
            texts = train_all(study, options.keep or Path(scratch))
    else:
        texts = tuple((HERE / name).read_text("utf-8") for name in names)
    rows, curves = (pd.read_csv(io.StringIO(text)) for text in texts)
    files = {**dict(zip(names, texts, strict=True)), "accuracy.svg": draw(study, rows, curves)}
    worst = max(found["apart"] for found in compare(study, rows))
    wrong = f"DES and one process are {worst:.1e} apart" if worst > study["equality"]["auc"] else ""
    return conclude(HERE, options, table(study, rows), files, findings(study, rows), same, wrong)


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
