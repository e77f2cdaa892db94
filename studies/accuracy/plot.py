"""Compare held-out AUC on MovieLens-100K: DES, one process, and asynchronous parameter servers.

    python studies/accuracy/plot.py            # write the tables and accuracy.svg from accuracy.csv and curves.csv
    python studies/accuracy/plot.py --train    # repeat every training first
    python studies/accuracy/plot.py --train --keep FOLDER   # resume an interrupted run that kept its results there
    python studies/accuracy/plot.py --update   # replace expected.json by the findings

Reads study.toml; trainings.py starts the trainings. Exits 3 when DES and one process disagree, or when the findings
differ from expected.json.
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
    """Summarise the AUC of one process and of DES for each split and model.

    `one`, `des` and `*_sd` are mean and standard deviation over seeds. `off` is the signed distance to the reference of
    the mean that is farther from it; `apart` is the largest difference between DES and one process with the same seed.
    """
    comparisons = []
    for split in study["equality"]["splits"]:
        for model in study["models"]:
            trained = rows[(rows.part == EQUALITY) & (rows.model == model["name"]) & (rows.split == split)]
            one, des = (trained[trained.method == method].set_index("seed").auc for method in (ONE, DES))
            reference = model["reference"][split]
            about = {"split": split, "model": model["name"], "reference": reference}
            means = {"one": float(one.mean()), "des": float(des.mean())}
            spread = {"one_sd": float(one.std()), "des_sd": float(des.std())}
            off = max((mean - reference for mean in means.values()), key=abs)
            comparisons.append({**about, **means, **spread, "off": off, "apart": float((des - one).abs().max())})
    return comparisons


def findings(study: Mapping[str, Any], rows: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Return the content of expected.json: AUCs of both parts, rounded to digits that every machine reproduces."""
    equal = [
        {"split": f["split"], "model": f["model"], "one": round(f["one"], 5), "des": round(f["des"], 5)}
        for f in compare(study, rows)
    ]
    means = rows[rows.part == STALENESS].groupby("method", sort=False).auc.mean()
    return {EQUALITY: equal, STALENESS: [{"method": name, "mean": round(float(auc), 4)} for name, auc in means.items()]}


def same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Compare findings: AUCs to 1e-4, or to 0.003 for asynchronous servers, whose runs are not repeatable."""
    for part, tolerance in ((EQUALITY, 1e-4), (STALENESS, 3e-3)):
        if len(found[part]) != len(expected[part]):
            return False
        for a, b in zip(found[part], expected[part], strict=True):
            if a.keys() != b.keys():
                return False
            if any(abs(a[k] - b[k]) > tolerance if isinstance(a[k], float) else a[k] != b[k] for k in a):
                return False
    return True


def table(study: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """Return two Markdown tables: DES against one process and the reference, and against asynchronous servers."""
    part = study["equality"]
    heads = [
        "reference",
        ONE,
        f"{DES} on {study['workers']} workers",
        "distance to reference",
        "DES vs one process, at most",
    ]
    lines = [f"| split | model | {' | '.join(heads)} |", f"|---|---|{'---:|' * len(heads)}"]
    for f in compare(study, rows):
        exceeded = "" if abs(f["off"]) <= part["reference"] else f", **more than {part['reference']}**"
        cells = [f"{f['reference']}", *(f"{f[m]:.4f} ± {f[f'{m}_sd']:.4f}" for m in ("one", "des"))]
        cells += [f"{round(f['off'], 4) + 0.0:+.4f}{exceeded}", f"{f['apart']:.0e}" if f["apart"] else "0"]
        lines.append(f"| {f['split']} | {f['model']} | {' | '.join(cells).replace('-', '−')} |")
    seeds = " | ".join(f"seed {seed}" for seed in study["staleness"]["seeds"])
    lines += [
        "",
        f"| method | {seeds} | held-out AUC | log loss | best epoch | steps ahead | pushes missed |",
        f"|---|{'---:|' * (len(study['staleness']['seeds']) + 5)}",
    ]
    stale = rows[rows.part == STALENESS]
    for method in study["staleness"]["methods"]:
        trained = stale[stale.method == method["name"]]
        per_seed = " | ".join(f"{value:.4f}" for value in trained.auc)
        auc, logloss = (f"{trained[key].mean():.4f} ± {trained[key].std():.4f}" for key in ("auc", "logloss"))
        epochs = ", ".join(map(str, trained.best_epoch))
        lags = "- | -"
        if "staleness" in method:
            pairs = ((trained.stale_mean, trained.stale_max), (trained.stale_missed_mean, trained.stale_missed_max))
            lags = " | ".join(f"{mean.mean():.2f}, at most {largest.max():.0f}" for mean, largest in pairs)
        lines.append(f"| {method['name']} | {per_seed} | {auc} | {logloss} | {epochs} | {lags} |")
    return "\n".join(lines) + "\n"


def draw(study: Mapping[str, Any], rows: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Draw as SVG text: AUC of DES over that of one process; validation AUC by epoch, mean and deviation over seeds."""
    with house_style() as plt:
        splits = study["equality"]["splits"]
        figure, panels = plt.subplots(1, len(splits) + 1, figsize=(10.2, 3.4), width_ratios=(*[1] * len(splits), 1.6))
        for axes, split in zip(panels, splits, strict=False):
            _equality_panel(axes, study, rows[(rows.part == EQUALITY) & (rows.split == split)], split)
        for axes in panels[1 : len(splits)]:
            axes.set_yticklabels([])
            axes.legend(loc="upper right", frameon=False, fontsize="small")
        _curves_panel(panels[-1], study, curves)
        return svg_text(figure, "Held-out AUC under DES and under stale gradients")


def _equality_panel(axes: Any, study: Mapping[str, Any], rows: pd.DataFrame, split: str) -> None:
    bound = study["equality"]["reference"]
    names = [m["name"] for m in study["models"]]
    for i, model in enumerate(study["models"]):
        low = model["reference"][split] - bound
        label = f"reference ± {bound}" if i == 0 else None
        axes.broken_barh([(low, 2 * bound)], (i - 0.3, 0.6), color=FAINT, alpha=0.35, lw=0, label=label)
    markers = {
        ONE: {"s": 110, "facecolors": "none", "edgecolors": GREY, "marker": "o"},
        DES: {"s": 45, "color": STRATEGY_STYLE["des_all_reduce"].color, "marker": "x"},  # the cross is inside the ring
    }
    for method, marker in markers.items():
        trained = rows[rows.method == method]
        axes.scatter(trained.auc, trained.model.map(names.index), label=method, lw=1.4, zorder=3, **marker)
    axes.set(xlabel="held-out AUC", ylabel="", ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(range(len(names)), names)
    axes.grid(True, axis="x")
    axes.set_title(f"split: {split}", loc="left")


def _curves_panel(axes: Any, study: Mapping[str, Any], curves: pd.DataFrame) -> None:
    import seaborn as sns

    part = study["staleness"]
    names = [m["name"] for m in part["methods"]]
    asynchronous = [m["name"] for m in part["methods"] if "staleness" in m]
    colors = [STRATEGY_STYLE[s].color for s in ("des_all_reduce", "des_reduce_scatter")]
    palette = dict(zip([name for name in names if name not in asynchronous], colors, strict=False))
    palette |= dict(zip(asynchronous, sns.color_palette("flare", len(asynchronous)), strict=True))
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
    """Run every training whose result is not yet in `runs`; return accuracy.csv and curves.csv. Raises DessimError."""
    rows = []
    curves = []
    planned = list(trainings(study))
    for i, training in enumerate(planned, 1):
        row, curve = result(training, study, runs)
        rows.append(row)
        curves += curve
        print(f"{i} of {len(planned)}: {training.name}: AUC {row['auc']:.4f}", file=sys.stderr, flush=True)
    return data_csv(rows, COLUMNS), data_csv(curves, CURVE)


def main(arguments: list[str] | None = None) -> int:
    parser = study_parser(__doc__, HERE)
    parser.add_argument("--train", action="store_true", help="repeat every training (an hour on two cores)")
    parser.add_argument("--keep", type=Path, help="folder in which --train keeps results, and from which it resumes")
    parser.add_argument("--study", type=Path, default=HERE / "study.toml", help="default: the one beside this file")
    options = parser.parse_args(arguments)

    study = read_toml(options.study)
    names = ("accuracy.csv", "curves.csv")
    if options.train:
        with tempfile.TemporaryDirectory() as scratch:
            texts = train_all(study, options.keep or Path(scratch))
    else:
        texts = tuple((HERE / name).read_text("utf-8") for name in names)
    rows, curves = (pd.read_csv(io.StringIO(text)) for text in texts)
    files = {**dict(zip(names, texts, strict=True)), "accuracy.svg": draw(study, rows, curves)}
    worst = max(comparison["apart"] for comparison in compare(study, rows))
    wrong = f"DES and one process are {worst:.1e} apart" if worst > study["equality"]["auc"] else ""
    return conclude(HERE, options, table(study, rows), files, findings(study, rows), same=same, wrong=wrong)


if __name__ == "__main__":
    sys.exit(run_study(main, HERE))
