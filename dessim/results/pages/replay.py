"""The page of `dessim replay --html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dessim.cluster import Cluster
from dessim.results import figures
from dessim.results.error_bar import interval_text
from dessim.results.labels import step_bound_label
from dessim.results.pages import blocks as b
from dessim.results.pages import steps
from dessim.results.pages.blocks import Block, Bullets, Column, Figure, Page, Section, Table, Text, Tiles
from dessim.results.pages.compare import comparison
from dessim.results.pages.earlier import Earlier
from dessim.results.pages.evidence import source_cells
from dessim.results.pages.fabric import fabric
from dessim.results.pages.question import Asked
from dessim.results.rows import Row
from dessim.results.style import strategy_label
from dessim.trace.schema import Header
from dessim.units import counted, format_time, percent

_NOT_MODELLED = (
    "Not modelled",
    "unless recorded: other jobs on the fabric, failing parts. Compute takes its recorded time; communication is "
    "simulated.",
)


def trace_line(header: Header) -> str:
    """`run: 4 ranks, gloo on cpu, DES AllReduce, 30 steps after 2 of warm-up`."""
    return (
        f"{header.name}: {counted(header.world_size, 'rank')}, {header.backend} on {header.device}, "
        f"{strategy_label(header.strategy)}, {counted(len(header.recorded_steps), 'step')} after "
        f"{len(header.warmup_steps)} of warm-up"
    )


def batch_of(header: Header) -> str:
    """The samples of a recorded step, if the trace states them."""
    batch = header.symbols.get("B")
    return f"{batch:,.0f} samples a step" if batch else "not stated in the trace"


def replay_page(
    result: Mapping[str, Any],
    name: str,
    recorded: Sequence[Row],
    *,
    cluster: Cluster,
    asked: Asked,
    earlier: Earlier | None = None,
) -> Page:
    """The page of the result of `dessim replay --json`.

    `name` is the trace's. `recorded` are rows for figures.predicted_vs_measured.
    """
    step: Row = {**result, "gpus": result["ranks"], "step_time_s": result["predicted_step_s"]}
    whose = f"{strategy_label(result['strategy'])}, {counted(result['ranks'], 'rank')}"
    parts: list[Block] = [steps.parts([step], noun="rank"), ops(result["comm_by_op"])]
    what_ifs = [steps.what_ifs([({}, result["what_if"])])] if result.get("what_if") else []
    measured: list[Block] = [_measurements(result)]
    if len(recorded) > 1:
        measured.append(step_times(recorded))
    sections = [
        Section("Predicted and measured", measured),
        *([comparison(earlier, result)] if earlier else []),
        Section("Where the time goes", parts),
        Section("Bottleneck of the step", [Text(_bound_sentence(step)), *steps.attribution(step, "replayed")]),
        *([Section("Gains of changes", what_ifs)] if what_ifs else []),
        Section("Fabric", fabric(cluster, step, whose)),
        Section("How far to trust this", _trust(result, cluster)),
    ]
    return Page(
        title=f"{name} replayed on {result['cluster']}",
        question=f"How long does the recorded step take on {cluster.name}, and what bounds it?",
        answer=_answer(result, step),
        asked=asked,
        summary=[_tiles(result, step)],
        sections=sections,
    )


def ops(costs: Sequence[Row]) -> Table:
    """The collectives of a step."""
    columns = (
        *(Column("op", left=True), Column("collective", left=True, choose=True), Column("algorithm", left=True)),
        *(Column("size"), Column("time"), Column("exposed"), Column("bound by", left=True, choose=True)),
    )
    cells = [
        [
            b.text(op["name"]),
            b.text(op["collective"]),
            b.text(op["algorithm"]),
            b.size(op["bytes"]),
            b.time(op["time_s"]),
            b.time(op["exposed_s"]),
            b.bound(op.get("bound_by")),
        ]
        for op in costs
    ]
    note = (
        "Size: S as nccl-tests counts it. Exposed: the time that a rank waits without computing; that of collectives "
        "side by side counts twice."
    )
    return Table("Collectives of a step", columns, cells, note)


def step_times(recorded: Sequence[Row]) -> Figure:
    """Each step, measured and predicted."""
    return Figure.of(
        figures.predicted_vs_measured(recorded), "Each step of the run, measured and predicted by the replay."
    )


def _measurements(result: Mapping[str, Any]) -> Table:
    columns = (Column("measured", left=True), Column("time of a step"), Column("predicted / measured − 1"))
    kinds = (
        ("steps without the recorder", "measured_step_s", "prediction_error"),
        ("recorded steps", "recorded_step_s", "self_replay_error"),
    )
    cells = [[b.text(name), b.time(result[seconds]), b.change(result[error])] for name, seconds, error in kinds]
    cells.append([b.text("predicted"), b.time(result["predicted_step_s"]), b.text(None)])
    note = "Means over steps. The error of the prediction is that against steps without the recorder."
    return Table("Predicted and measured steps", columns, cells, note)


def _answer(result: Mapping[str, Any], step: Row) -> list[str]:
    measured = result["measured_step_s"]
    against = ""
    if measured is not None:
        error = result["prediction_error"]
        against = f", {percent(abs(error))} {'more' if error > 0 else 'less'} than the measured {format_time(measured)}"
    parts = ", ".join(
        f"{percent(result[key] / step['step_time_s'])} {name}"
        for key, name in (("compute_s", "compute"), ("exposed_comm_s", "exposed communication"), ("idle_s", "idle"))
    )
    first = (
        f"On {result['cluster']} the recorded step takes {format_time(result['predicted_step_s'])}{against}: {parts}. "
        f"{_bound_sentence(step)}"
    )
    return [first, *([f"{result['note'][0].upper()}{result['note'][1:]}."] if result.get("note") else [])]


def _bound_sentence(step: Row) -> str:
    return f"The largest part of the critical path is {step_bound_label(step)}."


def _tiles(result: Mapping[str, Any], step: Row) -> Tiles:
    interval = f"80 % interval: {interval_text(result['interval'])}" if result["interval"] else "interval not known"
    measured = result["measured_step_s"]
    return Tiles(
        [
            ("Step, predicted", format_time(result["predicted_step_s"]), interval),
            (
                "Step, measured",
                b.DASH if measured is None else format_time(measured),
                "none in the trace"
                if measured is None
                else f"error {percent(result['prediction_error'], signed=True)}",
            ),
            *(
                (name, format_time(result[key]), f"{percent(result[key] / step['step_time_s'])} of the step")
                for key, name in (("compute_s", "Compute"), ("exposed_comm_s", "Exposed communication"))
            ),
        ]
    )


def _trust(result: Mapping[str, Any], cluster: Cluster) -> list[Block]:
    columns = (
        *(Column("number", left=True), Column("kind", left=True), Column("source", left=True, wide=True)),
        Column("covers", left=True, wide=True),
    )
    covers = f"{counted(result['steps'], 'step')} on {counted(result['ranks'], 'rank')}"
    cells = [
        source_cells("compute times", "recorded in the trace", covers, "measured"),
        source_cells(
            "communication times",
            f"simulated on {cluster.name}; transport {cluster.transport.name}",
            covers,
            "simulated",
        ),
        source_cells("bytes of each op", "recorded in the trace", covers, "measured"),
    ]
    interval = result["interval"]
    mostly = f" It comes mostly from {interval['mostly']}." if interval else ""
    bar = "has an 80 % interval." if interval else "has no error bar: the spread of a part of it is not known."
    return [
        Table("Source of each number", columns, cells),
        Bullets([("The predicted step", bar + mostly), _NOT_MODELLED]),
    ]
