"""Tables for the terminal and CSV for spreadsheets.

On a terminal rich fits and colours them (NO_COLOR is respected); into a pipe or file they go plain and at full width,
so that nothing a script reads is cut.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dessim.files import write_text
from dessim.results.rows import Row, data_csv, fitting
from dessim.results.style import style_of
from dessim.units import format_count, format_size, format_time, percent

TRAFFIC = ("ids", "sparse", "dense", "control")
SERVER_COLUMNS = (
    *("memory_bytes", "queue_s", "service_s", "transfer_s", "wait_s", "busy_share"),
    *("staleness_mean", "staleness_p95", "staleness_max", "lead_steps"),
)
PROJECTION_COLUMNS = (
    "gpus",
    "strategy",
    "step_time_s",
    "samples_per_s",
    "bytes_per_worker",
    "memory_bytes",
    "host_bytes",
    "host_reads_share",
    "compute_s",
    "exposed_comm_s",
    "idle_s",
    *(f"bytes_{traffic}" for traffic in TRAFFIC),
    "bound_by",
    "error_bar",
    "provenance_compute",
    "provenance_communication",
    "provenance_sizes",
    "provenance_memory",
    "provenance_spill",
    "servers",
    *(f"server_{of}" for of in SERVER_COLUMNS),
    "provenance_servers",
    "does_not_fit",
)
_WIDE = 10_000  # columns; wider than any table of ours


def console(file: IO[str] | None = None) -> Console:
    """Where tables are printed: stdout unless `file` is given."""
    out = file if file is not None else sys.stdout
    terminal = out.isatty() and os.environ.get("TERM") != "dumb"
    plain = not terminal
    return Console(file=out, width=_WIDE if plain else None, no_color=plain or None, highlight=False, emoji=False)


def print_table(table: Table, file: IO[str] | None = None) -> None:
    """Print a table to stdout (or `file`); into a pipe without the padding that rich ends lines with."""
    out = console(file)
    if out.is_terminal:
        out.print(table)
        return
    with out.capture() as captured:
        out.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    out.file.write("\n".join(lines).strip("\n") + "\n")


def projection_table(rows: Sequence[Row]) -> Table:
    """Projected steps: a block a GPU count, the fastest of each marked; error bars, spills and servers where rows have
    them.

    A job that does not fit its GPUs has its memory and no times.
    """
    bars = any(row.get("error_bar") is not None for row in rows)
    spills = any(row.get("spill") for row in rows)
    served = any(row.get("servers") for row in rows)
    table = _table(
        *("gpus", "strategy", "step", "samples/s", "sent/worker", "memory/gpu"),
        *(["in host", "host reads"] if spills else []),
        *("compute", "exposed comm", "idle", "bound by"),
        *(["server queue", "servers busy", "staleness", "p95", "max"] if served else []),
        *(["±"] if bars else []),
    )
    fastest: dict[int, float] = {}
    for row in fitting(rows):
        fastest[row["gpus"]] = max(row["samples_per_s"], fastest.get(row["gpus"], 0.0))
    last = None
    for row in rows:
        if last not in (None, row["gpus"]):
            table.add_section()
        gpus = f"{row['gpus']:,}" if row["gpus"] != last else ""
        last = row["gpus"]
        label, memory = style_of(row["strategy"]).label, format_size(row["memory_bytes"])
        if row.get("does_not_fit"):
            table.add_row(*(Text(c) for c in (gpus, label, "does not fit", "", "", memory)))
            continue
        best = row["samples_per_s"] == fastest[row["gpus"]]
        error, spill = row.get("error_bar"), row.get("spill")
        cells = [
            gpus,
            label + (" *" if best else ""),
            format_time(row["step_time_s"]),
            format_count(row["samples_per_s"]),
            format_size(row["bytes_per_worker"]),
            memory,
            *([format_size(spill["host_bytes"]), percent(spill["reads_share"])] if spill else ["", ""] * spills),
            format_time(row["compute_s"]),
            format_time(row["exposed_comm_s"]),
            format_time(row["idle_s"]),
            str(row.get("bound_by") or ""),
            *(_server_cells(row.get("servers")) if served else []),
            *(["" if error is None else f"{100 * error:.0f} %"] if bars else []),
        ]
        table.add_row(*(Text(c) for c in cells), style="bold" if best else None)
    table.caption = "* fastest at this scale"
    return table


def _server_cells(servers: Row | None) -> list[str]:
    """What parameter servers add to a row: the wait in their queues, and staleness in versions."""
    if servers is None:
        return [""] * 5
    stale = (f"{servers[f'staleness_{of}']:.3g}" for of in ("mean", "p95", "max"))
    return [format_time(servers["queue_s"]), percent(servers["busy_share"]), *stale]


def collective_table(rows: Iterable[Row]) -> Table:
    """nccl-tests' columns. Rows: `size_bytes, count, dtype, redop, time_s, algbw_GBps, busbw_GBps`; GB/s is 1e9."""
    table = _table("size", "count", "type", "redop", "time", "algbw", "busbw", left=("type", "redop"))
    table.add_row(*(Text(t, style="dim") for t in ("(B)", "(elements)", "", "", "(us)", "(GB/s)", "(GB/s)")))
    for row in rows:
        cells = (
            f"{int(row['size_bytes'])}",
            f"{int(row['count'])}",
            str(row["dtype"]),
            str(row["redop"]),
            f"{row['time_s'] * 1e6:.2f}",
            f"{row['algbw_GBps']:.2f}",
            f"{row['busbw_GBps']:.2f}",
        )
        table.add_row(*(Text(c) for c in cells))
    return table


def what_if_table(asked: Iterable[tuple[Row, Sequence[Row]]]) -> Table:
    """What changes would buy, each alone: of projected rows (`gpus`, `strategy`), or of one step (an empty row)."""
    asked = list(asked)
    named = any(row for row, _ in asked)
    table = _table(
        *(["gpus", "strategy"] if named else []),
        *("what if", "step", "samples/s", "speedup"),
        left=("strategy", "what if"),
    )
    for row, changes in asked:
        first = [f"{row['gpus']:,}", style_of(row["strategy"]).label] if named else []
        for change in changes:
            cells = [
                *first,
                change["change"],
                *(["does not fit", "", ""] if change["does_not_fit"] else _bought(change)),
            ]
            table.add_row(*(Text(cell) for cell in cells))
            first = [""] * len(first)
        table.add_section()
    return table


def _bought(change: Row) -> list[str]:
    throughput = change["samples_per_s"]
    samples = "not known" if throughput is None else format_count(throughput)
    return [format_time(change["step_time_s"]), samples, f"{change['speedup']:.3g}x"]


def key_value_table(title: str, pairs: Mapping[str, object] | Iterable[tuple[str, object]]) -> Table:
    """Names and values, one a line."""
    table = Table(
        title=Text(title) if title else None, box=None, show_header=False, title_justify="left", pad_edge=False
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for key, value in pairs.items() if isinstance(pairs, Mapping) else pairs:
        table.add_row(Text(str(key)), Text(str(value)))
    return table


def table_of(columns: Sequence[str], rows: Iterable[Sequence[object]], left: Sequence[str] = ()) -> Table:
    """A plain table of texts; columns right-aligned but the first and those in `left`."""
    table = _table(*columns, left=(columns[0], *left))
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table


def projection_csv(rows: Iterable[Row]) -> str:
    """Projection rows as CSV, always the same columns in the same order."""
    return data_csv([_flat(row) for row in rows], PROJECTION_COLUMNS)


def write_projection_csv(path: str | Path, rows: Iterable[Row]) -> None:
    """Write `projection.csv` atomically."""
    write_text(path, projection_csv(rows))


def _flat(row: Row) -> dict[str, Any]:
    traffic, provenance = row.get("bytes_by_traffic") or {}, row.get("provenance") or {}
    flat = {k: "" if row.get(k) is None else row[k] for k in PROJECTION_COLUMNS if k in row}
    flat |= {f"bytes_{t}": traffic.get(t, 0) for t in TRAFFIC} if traffic else {}
    spill = row.get("spill") or {"host_bytes": 0, "reads_share": 0}
    flat |= {"host_bytes": spill["host_bytes"], "host_reads_share": spill["reads_share"]}
    servers = row.get("servers") or {}
    flat |= {"servers": servers.get("count", "")} | {f"server_{of}": servers.get(of, "") for of in SERVER_COLUMNS}
    of = ("compute", "communication", "sizes", "memory", "spill", "servers")
    return flat | {f"provenance_{k}": provenance.get(k, "") for k in of}


def _table(*columns: str, left: Sequence[str] = ("strategy", "bound by")) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", caption_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=name not in ("bound by",))
    return table
