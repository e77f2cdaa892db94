"""The page of `dessim project --html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dessim.cluster import Cluster
from dessim.results.error_bar import interval_text
from dessim.results.labels import step_bound_label
from dessim.results.pages import evidence, steps
from dessim.results.pages.answers import ASSUMED_ERROR, answer, fastest_by_scale
from dessim.results.pages.blocks import Block, Bullets, Download, Page, Section, Text, Tiles
from dessim.results.pages.compare import comparison
from dessim.results.pages.earlier import Earlier
from dessim.results.pages.fabric import fabric, layers
from dessim.results.pages.question import Asked, gpu_memory
from dessim.results.rows import Row, contenders, fitting
from dessim.results.style import strategy_label
from dessim.results.tables import projection_csv
from dessim.units import counted, format_count, format_size, format_time, percent

NOT_MODELLED = ("Not modelled", "unless stated: other jobs on the fabric, failing parts, slow GPUs, reading the data.")
_FOLDED_PATHS = 12
"""Critical paths of the largest scale that the page holds."""


def projection_page(result: Mapping[str, Any], cluster: Cluster, asked: Asked, earlier: Earlier | None = None) -> Page:
    """The page of the result of `dessim project --json`."""
    rows: list[Row] = result["projection"]
    fits = fitting(rows)
    fastest = fastest_by_scale(rows)
    scales = sorted({row["gpus"] for row in rows})
    best = steps.ranked(contenders(rows) or fits)[0] if len(scales) == 1 else _best_at_largest(rows)
    whose = f"{strategy_label(best['strategy'])} on {counted(best['gpus'], 'GPU')}"
    ranking: list[Block] = [steps.ranking(rows)]
    if len(scales) > 1 and fits:
        ranking += [steps.verdicts(fastest, ASSUMED_ERROR), steps.throughput(fits)]
    others = [row for row in steps.ranked(fits) if row["gpus"] == best["gpus"] and row is not best][:_FOLDED_PATHS]
    bounds: list[Block] = [
        Text(steps.sentence_of_bound(best)),
        steps.bounds(rows),
        *steps.attribution(best, "projected"),
        *steps.paths(others),
    ]
    asked_what_if = [(row, row["what_if"]) for row in fits if row.get("what_if")]
    by_layer = layers(rows)
    csv = Download("projection.csv", projection_csv(rows), "every row and column, as --csv writes them")
    sections = [
        Section("Ranking", ranking),
        *([comparison(earlier, result)] if earlier else []),
        Section("Where the time goes", [steps.parts(fits), steps.sent(fits)]),
        Section("Bottleneck of each step", bounds),
        *([Section("Gains of changes", [steps.what_ifs(asked_what_if)])] if asked_what_if else []),
        Section("Memory", [evidence.memory(rows, gpu_memory(cluster, scales))]),
        Section("Fabric", [*fabric(cluster, best, whose), *([by_layer] if by_layer else [])]),
        Section("Error bars and sources", [evidence.error_bars(rows), evidence.provenance(fits)]),
        Section("How far to trust this", [Bullets([*trust(rows), *evidence.caveats(rows), NOT_MODELLED])]),
        Section("Data", [csv, Text("Every figure has its data below it. The command prints all of it with --json.")]),
    ]
    return Page(
        title=f"{result['model']} on {result['cluster']}",
        question=_question(rows, scales),
        answer=_answer(rows, best, result["cluster"]),
        asked=asked,
        summary=[_tiles(best)],
        sections=sections,
    )


def _question(rows: Sequence[Row], scales: Sequence[int]) -> str:
    names = list(dict.fromkeys(row["strategy"] for row in rows))
    gpus = f"{', '.join(f'{n:,}' for n in scales)} GPU{'' if scales == [1] else 's'}"
    if len(names) == 1:
        return f"How fast does {strategy_label(names[0])} train on {gpus}?"
    return f"Which strategy is fastest on {gpus}?"


def _answer(rows: Sequence[Row], best: Row, cluster: str) -> list[str]:
    """Sentences: the fastest strategies, or the one step; then the jobs that do not fit."""
    fits = fitting(rows)
    sentences = answer(rows, cluster) if len(fits) > 1 and contenders(rows) else [_sentence(best, cluster)]
    misfits = [f"{strategy_label(r['strategy'])} on {counted(r['gpus'], 'GPU')}" for r in rows if r["does_not_fit"]]
    return [*sentences, f"Does not fit: {', '.join(misfits)}."] if misfits else sentences


def _best_at_largest(rows: Sequence[Row]) -> Row:
    """The fastest row of the largest scale at which one fits."""
    at = contenders(rows) or fitting(rows)
    return max(at, key=lambda row: (row["gpus"], row["samples_per_s"]))


def _sentence(row: Row, cluster: str) -> str:
    """The answer for a single step, or for lower bounds alone."""
    trains = "trains at most" if row.get("lower_bound") else "trains"
    interval = f" (80 % interval: {interval_text(row['interval'])})" if row.get("interval") else ""
    return (
        f"On {counted(row['gpus'], 'GPU')} of {cluster}, {strategy_label(row['strategy'])} {trains} "
        f"{format_count(row['samples_per_s'], 3)} samples/s: a step takes {format_time(row['step_time_s'], 3)}"
        f"{interval}, bound by {step_bound_label(row)}."
    )


def _tiles(row: Row) -> Tiles:
    """The numbers of one row."""
    step = row["step_time_s"]
    parts = ", ".join(
        f"{name} {percent(row[key] / step)}"
        for key, name in (("compute_s", "compute"), ("exposed_comm_s", "exposed"), ("idle_s", "idle"))
    )
    whose = f"{strategy_label(row['strategy'])}, {counted(row['gpus'], 'GPU')}"
    interval = f"80 % interval: {interval_text(row['interval'])}" if row.get("interval") else "interval not known"
    return Tiles(
        [
            ("Samples a second", format_count(row["samples_per_s"]), whose),
            ("Step", format_time(step), interval),
            ("Bound by", step_bound_label(row), parts),
            ("Sent by a worker", format_size(row["bytes_per_worker"]), "in a step, mean over workers"),
        ]
    )


def trust(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The points on simulated times."""
    known = any(row.get("error_bar") is not None for row in rows)
    bar = "the error bar is an 80 % interval" if known else "their error is unknown: the job was not measured here"
    return [("Times", f"are simulated, none was measured on this cluster; {bar}.")]
