"""Blocks about how good numbers are: error bars, sources, caveats; and the memory that a job needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dessim.results.error_bar import interval_text
from dessim.results.pages import blocks as b
from dessim.results.pages.blocks import Cell, Column, Table
from dessim.results.pages.steps import GPUS, STRATEGY, ranked
from dessim.results.rows import Row, fitting
from dessim.results.style import strategy_label
from dessim.units import counted

SOURCES = ("measured", "fitted", "formula", "simulated", "assumed")  # kinds of provenance, the most reliable first
_TAGS = {"measured": "good", "assumed": "warn"}
_QUANTITIES = {
    "sizes": "bytes and FLOPs of each op",
    "compute": "compute times",
    "communication": "communication times",
}
_MEMORY = {
    "rows_bytes": "rows",
    "row_state_bytes": "optimizer state",
    "index_bytes": "ids and index",
    "dense_bytes": "dense weights and moments",
    "activations_bytes": "activations",
}


def error_bars(rows: Sequence[Row]) -> Table:
    """The 80 % interval of each step, and what widens it."""
    cells = []
    for row in ranked(fitting(rows)):
        interval = row.get("interval")
        cells.append(
            [
                b.whole(row["gpus"]),
                b.strategy(row["strategy"]),
                b.time(row["step_time_s"]),
                b.text(interval_text(interval) or None),
                b.plus_minus(row.get("error_bar")),
                b.text(_causes(interval["causes"]) if interval else None),
            ]
        )
    columns = (
        *(GPUS, STRATEGY, Column("step"), Column("80 % interval"), Column("error bar")),
        Column("mostly from (standard deviation that it adds)", left=True, wide=True),
    )
    note = "80 % of such times are expected inside. Errors of the topology file are not included."
    return Table("Error bars", columns, cells, note)


def _causes(causes: Mapping[str, float]) -> str:
    """The three largest: `compute 18 %; all_to_all above 8 MiB between servers 4 %`."""
    largest = sorted(causes, key=lambda cause: -round(causes[cause], 9))[:3]
    return "; ".join(f"{cause} {b.share(causes[cause]).text}" for cause in largest)


def memory(rows: Sequence[Row], capacity: Mapping[int, float]) -> Table:
    """Memory of the fullest GPU by content. `capacity` [bytes] is that of the smallest GPU at each number of GPUs."""
    served = any(row.get("servers") for row in rows)
    spilled = any(row.get("spill") for row in rows)
    columns = (
        *(GPUS, STRATEGY, *map(Column, _MEMORY.values()), Column("all"), Column("of the GPU")),
        *((Column("in the host"),) if spilled else ()),
        *((Column("in each server"),) if served else ()),
    )
    cells = []
    for row in ranked(rows):
        room = capacity.get(row["gpus"])
        cells.append(
            [
                b.whole(row["gpus"]),
                b.strategy(row["strategy"]),
                *(b.size(row["memory"][part]) for part in _MEMORY),
                b.size(row["memory_bytes"]),
                b.share_bar(row["memory_bytes"] / room) if room else b.text(None),
                *((b.size(row["spill"]["host_bytes"] if row.get("spill") else None),) if spilled else ()),
                *((b.size(row["servers"]["memory_bytes"] if row.get("servers") else None),) if served else ()),
            ]
        )
    return Table("Memory of the fullest GPU", columns, cells, "By formula, before anything moves to the host.")


def caveats(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Each caveat of a strategy once, then why a job does not fit."""
    caveats = dict.fromkeys((row["strategy"], row["caveat"]) for row in fitting(rows) if row.get("caveat"))
    misfits = [(row["strategy"], row["does_not_fit"]) for row in rows if row.get("does_not_fit")]
    return [(f"{strategy_label(name)}:", f"{said}.") for name, said in [*caveats, *misfits]]


def provenance(rows: Sequence[Row], first: Sequence[Sequence[Cell]] = ()) -> Table:
    """The sources of the rows' numbers: one row for each quantity and source, with what it covers, after `first`."""
    covered: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        for quantity, source in row["provenance"].items():
            covered.setdefault((quantity, str(source)), []).append(row)
    order = list(_QUANTITIES)
    sources = sorted(covered, key=lambda key: order.index(key[0]) if key[0] in order else len(order))
    n_strategies = len({row["strategy"] for row in rows})
    cells = [
        source_cells(_QUANTITIES.get(quantity, quantity), source, _coverage(covered[quantity, source], n_strategies))
        for quantity, source in sources
    ]
    columns = (
        *(Column("number", left=True), Column("kind", left=True), Column("source", left=True, wide=True)),
        Column("covers", left=True, wide=True),
    )
    return Table("Source of each number", columns, [*first, *cells])


def source_cells(what: str, source: str, covers: str, kind: str = "") -> list[Cell]:
    """A row of the sources; `kind` is read from the text of the source unless given."""
    kinds = [kind] if kind else [known for known in SOURCES if known in source.lower()]
    tag = next((_TAGS[known] for known in reversed(kinds) if known in _TAGS), "plain")
    return [b.text(what), Cell(", ".join(kinds), tag=tag if kinds else ""), b.text(source), b.text(covers)]


def _coverage(rows: Sequence[Row], n_strategies: int) -> str:
    """`8 to 1,024 GPUs, all strategies`."""
    labels = list(dict.fromkeys(strategy_label(row["strategy"]) for row in rows))
    scales = sorted({row["gpus"] for row in rows})
    gpus = counted(scales[0], "GPU") if len(scales) == 1 else f"{scales[0]:,} to {scales[-1]:,} GPUs"
    return f"{gpus}, {'all strategies' if len(labels) == n_strategies else ', '.join(labels)}"
