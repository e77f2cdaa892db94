"""The page of `dessim plan --html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dessim.cluster import Cluster
from dessim.results.pages import blocks as b
from dessim.results.pages import evidence, steps
from dessim.results.pages.blocks import Block, Bullets, Cell, Column, Figure, Folded, Page, Section, Table, Text, Tiles
from dessim.results.pages.compare import comparison
from dessim.results.pages.earlier import Earlier
from dessim.results.pages.fabric import fabric
from dessim.results.pages.question import Asked
from dessim.results.plan_figure import pareto, ranks
from dessim.results.show_plan import (
    chosen_scale,
    distinct_plans,
    plan_label,
    replicas_text,
    share_text,
    si,
    target_text,
)
from dessim.results.style import family_label, strategy_label
from dessim.units import counted, format_count, format_size, format_time

Values = Mapping[str, Any]
_MOST_BARS = 10
"""Plans whose parts are drawn; the table has all."""


def plan_page(
    result: Values, names: Sequence[str], cluster: Cluster | None, asked: Asked, earlier: Earlier | None = None
) -> Page:
    """The page of the result of `dessim plan --json`. `names`: of the model's tables.

    Without `cluster` the fabric is not drawn.
    """
    scale = chosen_scale(result)
    best = scale["plans"][0]
    plans = distinct_plans(scale)
    labelled = [{**row, "label": f"{n}: {_short(row)}"} for n, row in enumerate(plans[:_MOST_BARS], 1)]
    left_out = [*scale["refused"], *result["left_out"].values()]
    whose = f"the fastest plan on {counted(scale['gpus'], 'GPU')}"
    sections = [
        Section("Ranked plans", [_ranked(plans), steps.parts(labelled)]),
        *([comparison(earlier, result)] if earlier else []),
        Section("Load and memory by rank", [_loads(scale)]),
        Section("Bottleneck of the step", [Text(steps.sentence_of_bound(best)), *steps.attribution(best, "planned")]),
        Section("Tables and owners", [_owners(best, names)]),
        *([Section("Numbers of GPUs", _scales(result))] if len(result["scales"]) > 1 else []),
        *([Section("Fabric", fabric(cluster, best, whose))] if cluster is not None else []),
        *([Section("Left out", [Bullets([("", reason) for reason in left_out])])] if left_out else []),
        Section("How far to trust this", _trust(scale)),
    ]
    return Page(
        title=f"Plan of {result['model']} on {result['cluster']}",
        question=f"Which strategy for which table, with {scale['batch']:,} samples a step?",
        answer=answer(result),
        asked=asked,
        summary=[_tiles(result, scale)],
        sections=sections,
    )


def _short(row: Values) -> str:
    """A plan's label on two lines at most."""
    label = plan_label(row)
    if len(label) <= 34:
        return label
    cut = label.rfind(", ", 0, 34) + 1 or 34
    rest = label[cut:].strip()
    return f"{label[:cut]}\n{rest if len(rest) <= 34 else rest[:33] + '…'}"


def answer(result: Values) -> list[str]:
    """Sentences: the plan and its speed, its lead over each strategy alone, and plans that may be as fast."""
    scale = chosen_scale(result)
    best = scale["plans"][0]
    alone = scale["leads"]
    speed = f"{format_count(scale['samples_per_s'], 3)} samples/s, a step of {format_time(best['step_time_s'], 3)}"
    sentences = [f"{strategy_label(best['strategy'])} on {counted(scale['gpus'], 'GPU')} trains {speed}."]
    if result["target"] is not None:
        sentences.append(f"{target_text(result)[0].upper()}{target_text(result)[1:]}.")
    if alone and best["tables"]:
        name = min(alone, key=lambda name: round(alone[name], 9))
        lead = alone[name]
        label = strategy_label(name)
        faster = f"{share_text(lead)} faster than" if round(lead, 4) else "as fast as"
        sentences.append(f"It is {faster} {label}, the best strategy for all tables.")
    if best["replicas"] > 1:
        sentences.append(f"It has {replicas_text(scale)}.")
    if scale["codecs"]:
        sentences.append(f"Its codecs, {scale['codecs']}, change what is trained.")
    ties = [plan_label(row) for row in distinct_plans(scale) if row["tie"]]
    if ties:
        sentences.append(f"May be as fast: {'; '.join(ties)}.")
    return sentences


def _tiles(result: Values, scale: Values) -> Tiles:
    best = scale["plans"][0]
    emptiest, fullest = scale["extremes"]["memory_bytes"]
    parts = ", ".join(
        f"{name} {format_time(best[key])}"
        for key, name in (("compute_s", "compute"), ("exposed_comm_s", "exposed"), ("idle_s", "idle"))
    )
    room = f"emptiest {format_size(emptiest)}, of {format_size(scale['by_rank']['capacity_bytes'])}"
    gap = f"best estimate above HiGHS's bound of {format_time(scale['bound_s'])}"
    tiles = [
        ("Samples a second", format_count(scale["samples_per_s"]), _interval(scale)),
        ("Step", format_time(best["step_time_s"]), parts),
        ("Fullest memory", format_size(fullest), room),
        ("Gap of the placement", share_text(scale["gap"]), gap),
    ]
    if scale["dollars_per_h"] is not None:
        source = f", {result['price_source']}" if result["price_source"] else ""
        note = f"at {scale['dollars_per_h']:,.2f} $/h{source}"
        tiles.append(("Cost of a billion samples", f"{scale['dollars_per_billion']:,.2f} $", note))
    if scale["watts"] is not None:
        note = f"at most, for the GPUs alone, which draw {si(scale['watts'], 'W')}"
        tiles.append(("Energy of a billion samples", si(scale["joules_per_billion"], "J"), note))
    return Tiles(tiles)


def _interval(scale: Values) -> str:
    interval = scale["plans"][0].get("interval")
    if not interval:
        return "interval not known"
    low, high = (scale["batch"] / interval[end] for end in ("high_s", "low_s"))
    return f"80 % interval: {format_count(low, 3)} to {format_count(high, 3)}"


def _loads(scale: Values) -> Figure:
    return Figure.of(
        ranks(scale["by_rank"]),
        f"The fastest plan on {counted(scale['gpus'], 'GPU')}. Dashed: the mean. Compute is that of all kernels of a "
        "step, by formula; a step waits for the busiest rank. Where rows are spread by hash, the busiest rank and the "
        "mean of all others are known.",
    )


def _ranked(plans: Sequence[Values]) -> Table:
    columns = (
        *(Column("#"), Column("plan", left=True, wide=True), Column("step"), Column("samples/s"), Column("longer")),
        *(Column("memory"), Column("compute"), Column("exposed"), Column("idle"), Column("error bar (80 %)")),
        Column("bound by", left=True, wide=True, choose=True),
    )
    best = plans[0]
    cells = []
    for n, row in enumerate(plans):
        longer = row["step_time_s"] / best["step_time_s"] - 1
        cells.append(
            [
                b.whole(n + 1),
                Cell(plan_label(row) + (", tie" if row["tie"] else "")),
                b.time(row["step_time_s"]),
                b.quantity(row["samples_per_s"]),
                Cell(share_text(longer, signed=True), sort=longer) if n else b.text(None),
                b.size(row["memory_bytes"]),
                b.time(row["compute_s"]),
                b.time(row["exposed_comm_s"]),
                b.time(row["idle_s"]),
                b.plus_minus(row["error_bar"]),
                b.step_bound(row),
            ]
        )
    note = (
        "The fastest plan of each set of strategies; bold: the fastest of all. A tie may be as fast: its distance lies "
        "within the 80 % interval of the ratio. Memory: of the fullest GPU. Exposed: communication that no compute "
        "overlaps."
    )
    return Table("Ranked plans", columns, cells, note, frozenset({0}))


def _owners(best: Values, names: Sequence[str]) -> Block:
    if not best["tables"]:
        return Text(f"{strategy_label(best['strategy'])} trains all tables and names no owners.")
    columns = (
        *(Column("table", left=True), Column("strategy", left=True, choose=True)),
        *(Column("ranks", left=True, wide=True), Column("columns", left=True, wide=True)),
    )
    cells = [
        [
            b.text((names[n] if names else "") or n),
            b.text(family_label(table["strategy"]) + _spilt(table)),
            b.text(", ".join(map(str, table["ranks"])) or "all"),
            b.text(", ".join(map(str, table["columns"])) or "all"),
        ]
        for n, table in enumerate(best["tables"])
    ]
    note = (
        "Data-parallel rows are on every rank, and row-wise ones are spread over all ranks by hash. Columns are those "
        "of each owner, from the first column on."
    )
    return Table("Tables and owners", columns, cells, note)


def _spilt(table: Values) -> str:
    """The rows of a table that a GPU caches, where the host holds all of them."""
    return f", spilt: {table['cached_rows']:,} rows cached" if table.get("cached_rows") else ""


def _scales(result: Values) -> list[Block]:
    scales = result["scales"]
    priced = all(scale["dollars_per_h"] is not None for scale in scales)
    columns = (
        *(Column("GPUs"), Column("plan", left=True, wide=True), Column("samples/s")),
        *((Column("$/h"), Column("$ per 1e9 samples")) if priced else ()),
        *(Column("energy per 1e9 samples"), Column("Pareto front", left=True)),
    )
    dollars = b.number("{:,.2f}".format)
    cells = [
        [
            b.whole(scale["gpus"]),
            b.text(strategy_label(scale["strategy"])),
            b.quantity(scale["samples_per_s"]),
            *((dollars(scale["dollars_per_h"]), dollars(scale["dollars_per_billion"])) if priced else ()),
            b.number(lambda value: si(value, "J"))(scale["joules_per_billion"]),
            b.text("yes" if scale["on_front"] else ""),
        ]
        for scale in scales
    ]
    chosen = next(n for n, scale in enumerate(scales) if scale["gpus"] == result["chosen_gpus"])
    caption = (
        "The best plan of each number of GPUs, with its 80 % interval. Filled: on the Pareto front, where no other is "
        "faster at no higher cost."
    )
    note = "Bold: the one that was chosen. Energy counts GPUs alone, at the most that they draw."
    return [
        Figure.of(pareto(scales), caption),
        Table("The best plan of each number of GPUs", columns, cells, note, frozenset({chosen})),
    ]


def _trust(scale: Values) -> list[Block]:
    plans = scale["plans"]
    times = ("Times", "are simulated, none was measured. The error bar is an 80 % interval.")
    sources: list[Block] = [evidence.error_bars(plans), evidence.provenance(plans)]
    return [Bullets([times, *evidence.caveats(plans)]), Folded("Error bars and sources of all plans", sources)]
