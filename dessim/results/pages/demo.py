"""The page of `dessim demo`: training, certificate, replay and projection of one job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dessim.results.pages import blocks as b
from dessim.results.pages import evidence, steps
from dessim.results.pages.answers import FastestStrategy, answer, fastest_by_scale, uncertainty_of
from dessim.results.pages.blocks import Block, Bullets, Cell, Column, Facts, Figure, Page, Section, Table, Text, Tiles
from dessim.results.pages.projection import NOT_MODELLED
from dessim.results.pages.render import checked_drawing, render, write_page
from dessim.results.pages.replay import ops, step_times
from dessim.results.rows import Row, fitting
from dessim.results.style import strategy_label
from dessim.units import format_count, format_time, percent

Values = Mapping[str, Any]
_DRAWN = (
    "The cluster of the projection. Darker and wider lines: classes of links with more mean use in the step of the "
    "fastest strategy at the largest scale."
)


def write_report(path: str | Path, result: Values, **extras: Any) -> None:
    """Write the report atomically; `extras` are the keyword arguments of `demo_page`."""
    write_page(path, demo_page(result, **extras))


def render_report(result: Values, **extras: Any) -> str:
    """The report as HTML text; `extras` are the keyword arguments of `demo_page`."""
    return render(demo_page(result, **extras))


def demo_page(
    result: Values, *, cluster_svg: str = "", timeline: str | None = None, recorded: Sequence[Row] = ()
) -> Page:
    """The page of result.json.

    `cluster_svg` is a drawing by dessim.cluster.drawing, `timeline` the name of the timeline file beside the report,
    `recorded` are rows for figures.predicted_vs_measured. Raises ValueError if the drawing could run or load something.
    """
    drawing = checked_drawing(cluster_svg, "cluster") if cluster_svg else ""
    rows = result["projection"]
    cluster = result["projection_cluster"]
    certificate = result["certificate"]
    uncertainty = uncertainty_of(result["prediction_error"])
    fastest = fastest_by_scale(rows, uncertainty)
    replayed = result["replay"]
    sections = [
        *(_projected(rows, fastest, uncertainty) if fitting(rows) else []),
        Section("Trained for real", [_training(result)]),
        Section("Equivalence to one device", _certificate(certificate)),
        Section("Predicted against measured", _replay(result, recorded)),
        Section("Bottleneck of the replayed step", _attribution(replayed, "replayed")),
        Section("Source of each number", [_sources(result)]),
    ]
    if drawing:
        sections.append(Section("The cluster", [Figure(f"Cluster {cluster}", drawing, _DRAWN, on_paper=True)]))
    if timeline:
        said = (
            f"{timeline}, beside this report, has every op of every rank. Perfetto shows it (https://ui.perfetto.dev, "
            "Open trace file)."
        )
        sections.append(Section("Timeline", [Text(said)]))
    sections.append(Section("How far to trust this", [Bullets(_trust(result))]))
    return Page(
        title="Which strategy, which scale",
        question=f"{result['data']['name']} trained on {result['training']['ranks']} ranks, compared with one device, "
        f"replayed, and projected to {cluster}",
        answer=answer(rows, cluster, uncertainty),
        asked=[],
        summary=[_tiles(result, fastest)],
        sections=sections,
        alerts=_alerts(result),
        footer=f"dessim {result['dessim_version']} · result schema {result['schema_version']}",
    )


def _alerts(result: Values) -> list[Text]:
    alerts = []
    if result["data"]["fallback"]:
        said = (
            f"The real data set was not available, so everything below was trained on {result['data']['name']}. Speeds "
            "and bytes are valid; the AUC says nothing about real data."
        )
        alerts.append(Text(said, "Synthetic data.", "warn"))
    if not result["certificate"]["ok"]:
        said = "The distributed run does not compute what one device computes: do not base a decision on what follows."
        alerts.append(Text(said, "The equivalence certificate failed.", "bad"))
    return alerts


def _tiles(result: Values, fastest: Sequence[FastestStrategy]) -> Tiles:
    reference = result["reference_auc"]
    error = b.change(result["prediction_error"]).text
    tiles = [
        (
            "Held-out AUC",
            f"{result['auc']:.4f}",
            f"reference {reference:.3f}" if reference else "no published reference",
        ),
        (
            "Against one device",
            f"{result['certificate']['max_param_diff']:.2g}",
            "largest difference in a parameter, float64",
        ),
        (
            "Step, predicted",
            b.time(result["predicted_step_s"]).text,
            f"measured {b.time(result['measured_step_s']).text}: {error}",
        ),
    ]
    if fastest:
        last = fastest[-1]
        lead = f"{percent(last.lead)} ahead of {strategy_label(last.runner_up)}" if last.lead and last.runner_up else ""
        note = "too close to call" if last.is_tie else lead or "the only one projected"
        tiles.append((f"Fastest at {last.gpus:,} GPUs", strategy_label(last.strategy), note))
    return Tiles(tiles)


def _projected(rows: Sequence[Row], fastest: Sequence[FastestStrategy], uncertainty: float) -> list[Section]:
    fits = fitting(rows)
    best = fastest_row(fits)
    what_ifs = [(best, best["what_if"])] if best.get("what_if") else []
    projection: list[Block] = [
        steps.throughput(fits),
        steps.verdicts(fastest, uncertainty),
        steps.parts(fits),
        steps.sent(fits),
        steps.ranking(rows),
    ]
    bounds: list[Block] = [Text(steps.sentence_of_bound(best)), *_attribution(best, "projected")]
    return [
        Section("Projection: which strategy at which scale", projection),
        Section("Bottleneck of the step", [*bounds, *map(steps.what_ifs, [what_ifs] if what_ifs else [])]),
    ]


def fastest_row(rows: Sequence[Row]) -> Row:
    """The fastest row of the largest scale at which a job fits."""
    return max(fitting(rows), key=lambda row: (row["gpus"], row["samples_per_s"]))


def _attribution(row: Row, which: str) -> list[Block]:
    return [*steps.attribution(row, which), steps.link_uses(row, which)]


def _training(result: Values) -> Facts:
    data = result["data"]
    training = result["training"]
    reference = result["reference_auc"]
    against = f" (reference {reference:.3f}, difference {result['auc'] - reference:+.4f})" if reference else ""
    return Facts(
        [
            (
                "data",
                f"{data['name']}, {data['samples']:,} samples, from {data['source']}; {data['rows_train']:,} to train, "
                f"{data['rows_test']:,} held out",
            ),
            ("quality", f"AUC {result['auc']:.4f}{against}, logloss {result['logloss']:.4f}"),
            (
                "run",
                f"{training['ranks']} ranks, {training['epochs']} epochs in {format_time(training['seconds'])}, "
                f"{format_count(training['samples_per_s'])} samples/s",
            ),
        ]
    )


def _certificate(certificate: Values) -> list[Block]:
    said = (
        "The distributed run and one process train on the same batches in float64; the table has their largest "
        "differences. The recorded bytes of every op are compared with the formula that the projection uses."
    )
    cases = certificate["cases"]
    columns = (
        *(Column("ranks"), Column("loss"), Column("gradients"), Column("parameters")),
        Column("bytes recorded = formula", left=True),
    )
    cells = [
        [
            b.whole(case["ranks"]),
            *(b.tiny(case[f"max_{what}_diff"]) for what in ("loss", "grad", "param")),
            _verdict(case["bytes_match"], "every op", "differs"),
        ]
        for case in cases
    ]
    lead = "Certified." if certificate["ok"] else "Failed."
    blocks: list[Block] = [Text(said, lead), Table("Differences from one process", columns, cells)]
    if cases and cases[-1]["ops"]:
        of_ops = (Column("op", left=True), Column("recorded"), Column("by formula"), Column("formula", left=True))
        cells = [
            [
                b.text(op["name"]),
                b.whole(op["recorded_bytes"]),
                b.whole(op["formula_bytes"]),
                Cell(op["formula"], is_code=True),
            ]
            for op in cases[-1]["ops"]
        ]
        blocks.append(Table(f"Bytes of the {cases[-1]['ranks']}-rank case", of_ops, cells))
    return blocks


def _verdict(ok: bool, yes: str, no: str) -> Cell:
    return Cell(yes if ok else no, tag="good" if ok else "bad")


def _replay(result: Values, recorded: Sequence[Row]) -> list[Block]:
    replayed = result["replay"]
    tiles = Tiles(
        [
            ("measured step", b.time(result["measured_step_s"]).text, "mean, recorder off"),
            ("predicted step", b.time(result["predicted_step_s"]).text, f"replayed on {replayed['cluster']}"),
            ("error", b.change(result["prediction_error"]).text, "predicted / measured − 1"),
            (
                "self-replay error",
                b.change(result["self_replay_error"]).text,
                "the same prediction, against the recorded steps, recorder on",
            ),
        ]
    )
    said = (
        f"The predicted step is {format_time(replayed['compute_s'])} of compute, "
        f"{format_time(replayed['exposed_comm_s'])} of exposed communication and {format_time(replayed['idle_s'])} "
        f"idle ({replayed['steps']} steps on {replayed['ranks']} ranks)."
    )
    return [tiles, *([step_times(recorded)] if recorded else []), Text(said), ops(replayed["comm_by_op"])]


def _sources(result: Values) -> Table:
    fit = result["calibration"]
    ranks = result["training"]["ranks"]
    r2 = b.DASH if fit["r2"] is None else f"{fit['r2']:.4f}"
    fitted = (
        f"{fit['transport']}: overhead {format_time(fit['message_overhead_s'])} and latency "
        f"{format_time(fit['latency_s'])} per message, {fit['bandwidth_GBps']:.2g} GB/s; R² {r2}, n = {fit['n']}"
    )
    own = [
        evidence.source_cells(
            "AUC, logloss, measured step", f"this run, {ranks} ranks", "the captured scale", "measured"
        ),
        evidence.source_cells("link and message costs on this machine", fitted, "the replay", "fitted"),
    ]
    return evidence.provenance(fitting(result["projection"]), own)


def _trust(result: Values) -> list[tuple[str, str]]:
    certificate = result["certificate"]
    cluster = result["projection_cluster"]
    ranks = ", ".join(str(case["ranks"]) for case in certificate["cases"])
    equal = "equals one process in every certified case" if certificate["ok"] else "does not equal one process"
    match = (
        "equal the formulas at the captured scale"
        if certificate["bytes_match"]
        else "recorded differ from the formulas, so the projected bytes are doubtful"
    )
    error = b.change(result["prediction_error"]).text
    return [
        ("Training", f"{equal} ({ranks} ranks)."),
        ("Bytes", f"{match}; at other scales they follow the same formulas."),
        (
            "Time at the captured scale",
            f"was predicted with an error of {error} on {result['replay']['cluster']}.",
        ),
        (
            f"Time on {cluster}",
            "was not measured. It rests on the sources above; numbers marked as assumed have no error bar, and a row "
            "without one says “not known”.",
        ),
        *evidence.caveats(result["projection"]),
        NOT_MODELLED,
    ]
