"""Blocks about simulated steps: ranked, split into parts, and what bounds them.

Rows are those of `dessim project --json`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dessim.results import figures
from dessim.results.critical_path import fold_short_ops
from dessim.results.error_bar import is_tie
from dessim.results.labels import link_label, step_bound_label
from dessim.results.pages import blocks as b
from dessim.results.pages.answers import FastestStrategy
from dessim.results.pages.blocks import Block, Cell, Column, Figure, Folded, Table
from dessim.results.rows import Row, contenders, fitting
from dessim.results.style import strategy_label
from dessim.units import counted

GPUS = Column("GPUs", choose=True)
STRATEGY = Column("strategy", left=True, choose=True)
_BOUND = Column("bound by", left=True, wide=True, choose=True)


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Rows by number of GPUs, then the fastest first; lower bounds and misfits follow."""

    def place(row: Row) -> tuple[object, ...]:
        step = row["step_time_s"]
        return row["gpus"], step is None, bool(row.get("lower_bound")), -row["samples_per_s"] if step else 0.0

    return sorted(rows, key=place)


def ranking(rows: Sequence[Row]) -> Table:
    """Every step, the fastest of each scale first and in bold."""
    fastest: dict[int, Row] = {}
    for row in contenders(ranked(rows)):
        fastest.setdefault(row["gpus"], row)
    cells: list[list[Cell]] = []
    best: list[int] = []
    for number, row in enumerate(ranked(rows)):
        first = fastest.get(row["gpus"])
        if row is first:
            best.append(number)
        cells.append(_ranked_cells(row, first))
    columns = (
        *(GPUS, STRATEGY, Column("step"), Column("samples/s"), Column("longer"), Column("compute")),
        *(Column("exposed"), Column("idle"), Column("error bar (80 %)"), Column("sent/worker"), Column("memory/GPU")),
        _BOUND,
    )
    note = (
        "Bold: the fastest at each number of GPUs; tie: may be as fast. Longer: than the fastest. Exposed: "
        "communication that no compute overlaps. Sent: bytes that one worker sends in one step, the mean over workers."
    )
    return Table("Simulated steps", columns, cells, note, frozenset(best))


def _ranked_cells(row: Row, fastest: Row | None) -> list[Cell]:
    if row.get("does_not_fit"):
        missing = [b.text(None)] * 8
        return [b.whole(row["gpus"]), b.strategy(row["strategy"]), *missing, b.size(row["memory_bytes"]), NO_ROOM]
    mark = ""
    if row.get("lower_bound"):
        mark = ", lower bound"
    elif fastest is not None and row is not fastest and is_tie(fastest, row):
        mark = ", tie"
    longer = row["step_time_s"] / fastest["step_time_s"] - 1 if fastest is not None and row is not fastest else None
    return [
        b.whole(row["gpus"]),
        b.strategy(row["strategy"], mark),
        b.time(row["step_time_s"]),
        b.quantity(row["samples_per_s"]),
        b.change(longer),
        b.time(row["compute_s"]),
        b.time(row["exposed_comm_s"]),
        b.time(row["idle_s"]),
        b.plus_minus(row.get("error_bar")),
        b.size(row["bytes_per_worker"]),
        b.size(row["memory_bytes"]),
        b.step_bound(row),
    ]


NO_ROOM = Cell("does not fit", tag="bad")


def verdicts(fastest: Sequence[FastestStrategy], uncertainty: float) -> Table:
    """The fastest strategy of each scale, and whether its lead is larger than the error."""
    columns = (
        *(Column("GPUs"), Column("fastest", left=True), Column("lead"), Column("runner-up", left=True)),
        Column("verdict", left=True),
    )
    rows = [
        [
            b.whole(f.gpus),
            b.strategy(f.strategy),
            b.share(f.lead),
            b.strategy(f.runner_up) if f.runner_up else b.text(None),
            _verdict(f),
        ]
        for f in fastest
    ]
    error = b.share(uncertainty).text
    note = f"A lead within the 80 % interval of the ratio is a tie; where no interval is known, one below {error}."
    return Table("The fastest strategy at each number of GPUs", columns, rows, note)


def _verdict(f: FastestStrategy) -> Cell:
    if not f.runner_up:
        return Cell("nothing to compare", tag="plain")
    return Cell("too close to call", tag="plain") if f.is_tie else Cell("ahead", tag="good")


def throughput(rows: Sequence[Row]) -> Figure:
    """Samples/s against GPUs."""
    return Figure.of(
        figures.throughput(rows),
        "Samples trained per second. Dotted: linear scaling of the fastest strategy at the smallest scale. The batch "
        "per worker is constant, so the global batch grows with the number of GPUs.",
    )


def parts(rows: Sequence[Row], noun: str = "GPU") -> Figure:
    """Each step split into compute, exposed communication and idle time."""
    return Figure.of(
        figures.step_breakdown(rows, noun=noun),
        "One step, split into compute, exposed communication (overlapped by no compute) and idle time; the whisker is "
        "the 80 % interval of the step, where it is known. Each panel has its own time axis.",
    )


def sent(rows: Sequence[Row]) -> Figure:
    """Bytes that a worker sends."""
    return Figure.of(
        figures.bytes_per_worker(rows),
        "Bytes a worker sends in a step (left), and their shares by kind of traffic at the largest scale (right).",
    )


def bounds(rows: Sequence[Row]) -> Table:
    """The bound of each step, and the share of its critical path that it has."""
    columns = (
        *(GPUS, STRATEGY, _BOUND, Column("share of path"), Column("longest op", left=True), Column("its time")),
        *(Column("busiest links", left=True), Column("mean use"), Column("busiest worker sends")),
    )
    cells = []
    for row in ranked(fitting(rows)):
        path = row["critical_path"]
        use = row["utilisation"]["mean_share"]
        bound = sum(op["time_by_bound_s"].get(row["bound_by"], 0.0) for op in path)
        longest = max(path, key=lambda op: op["time_s"], default=None)
        busiest = max(use, key=lambda kind: use[kind], default=None)
        most = row.get("busiest_worker_bytes")
        ratio = most / row["bytes_per_worker"] if most and row["bytes_per_worker"] else None
        cells.append(
            [
                b.whole(row["gpus"]),
                b.strategy(row["strategy"]),
                b.step_bound(row),
                b.share_bar(bound / row["step_time_s"]),
                b.text(longest["name"] if longest else None),
                b.time(longest["time_s"] if longest else None),
                b.text(link_label(busiest) if busiest else None),
                b.share(use[busiest] if busiest else None),
                Cell(f"{ratio:.3g}× the mean", sort=ratio) if ratio else b.text(None),
            ]
        )
    note = (
        "Share of path: the part of the critical path with this bound. Mean use is over all links of a class and over "
        "the step: one saturated NIC among idle ones does not raise it; the busiest worker shows that."
    )
    return Table("Bottleneck of each step", columns, cells, note)


def attribution(row: Row, which: str) -> list[Block]:
    """Why a step takes its time: its critical path, and the use of links over time.

    `which` ("projected") keeps this path and the ids of this figure apart from those of others.
    """
    step = row["step_time_s"]
    columns = (
        *(Column("critical path", left=True), Column("kind", left=True), Column("time"), Column("share of step")),
        Column("bound by", left=True),
    )
    cells = [
        [
            b.text(op["name"]),
            b.text(op["what"]),
            b.time(op["time_s"]),
            b.share_bar(op["time_s"] / step),
            b.bound(op["bound_by"]),
        ]
        for op in fold_short_ops(row["critical_path"], step)
    ]
    note = (
        "The chain of ops and host waits that determined the step time; their times add up to it. Everything else was "
        "hidden behind them."
    )
    blocks: list[Block] = [Table(f"Critical path, {which}", columns, cells, note)]
    if row["utilisation"]["share"]:
        plot = figures.utilisation(row["utilisation"], title=f"Utilisation of links, {which}")
        caption = (
            "Share of each link class's capacity in use, over the servers that take part and the whole fabric. A "
            "message that is alone on its links is drawn as the average over its stages."
        )
        blocks.append(Figure.of(plot, caption))
    return blocks


def link_uses(row: Row, whose: str) -> Table:
    """Bytes and use of each class of links in a run; `whose` names it."""
    use = row["utilisation"]
    columns = (Column("links", left=True), Column("bytes per step"), Column("mean use"), Column("peak use"))
    cells = [
        [
            b.text(link_label(kind)),
            b.size(row["bytes_by_link"].get(kind, 0.0)),
            b.share_bar(mean),
            b.share(use["peak_share"][kind]),
        ]
        for kind, mean in use["mean_share"].items()
    ]
    note = "Use: share of the capacity of all links of a class; of links in servers, those of servers that take part."
    return Table(f"Links by layer, {whose}", columns, cells, note)


def paths(rows: Sequence[Row]) -> list[Block]:
    """The critical path of each row, folded."""
    names = [f"{strategy_label(row['strategy'])} on {counted(row['gpus'], 'GPU')}" for row in rows]
    return [
        Folded(f"Critical path of {name}", attribution({**row, "utilisation": {"share": {}}}, name))
        for name, row in zip(names, rows, strict=True)
    ]


def what_ifs(asked: Sequence[tuple[Row, Sequence[Row]]]) -> Table:
    """The gain of each change alone, for projected rows or for one replayed step (an empty row)."""
    has_names = any(row for row, _ in asked)
    names = (GPUS, STRATEGY) if has_names else ()
    columns = (
        *names,
        *(Column("what if", left=True, choose=True), Column("step"), Column("samples/s"), Column("speedup")),
    )
    cells = [
        [
            *((b.whole(row["gpus"]), b.strategy(row["strategy"])) if has_names else ()),
            Cell(what_if["change"], is_code=True),
            NO_ROOM if what_if["does_not_fit"] else b.time(what_if["step_time_s"]),
            b.quantity(what_if["samples_per_s"]),
            b.factor(what_if["speedup"]),
        ]
        for row, what_if_rows in asked
        for what_if in what_if_rows
    ]
    note = "Each change alone, simulated again on the changed cluster. Speedup: ratio of samples/s."
    return Table("Gain of each change", columns, cells, note)


def sentence_of_bound(row: Row) -> str:
    """The sentence on what bounds a row."""
    return (
        f"{strategy_label(row['strategy'])} on {counted(row['gpus'], 'GPU')}: the largest part of its critical path "
        f"is {step_bound_label(row)}."
    )
