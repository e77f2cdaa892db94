"""Tables for the terminal and CSV for spreadsheets.

A table is fitted to the width of the terminal, and coloured unless NO_COLOR is set. Into a pipe or a file it is written
plain and at full width, unless the environment exports COLUMNS (as `watch` does).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dessim.files import write_text
from dessim.results.error_bar import is_tie
from dessim.results.fitted_table import FittedTable, Layout
from dessim.results.labels import step_bound_label
from dessim.results.rows import Row, contenders, data_csv
from dessim.results.style import strategy_label
from dessim.units import format_count, format_size, format_time, percent

_PROVENANCE = ("compute", "communication", "sizes", "memory", "spill", "servers")
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
    *(f"server_{key}" for key in SERVER_COLUMNS),
    "provenance_servers",
    "does_not_fit",
)
_NOTABLE = 1.05
"""The busiest worker is shown if it sends this many times the mean."""
_UNLIMITED = 10_000  # columns; wider than any of our tables


def console(file: IO[str] | None = None) -> Console:
    """The console that tables are printed on: stdout unless `file` is given."""
    out = file if file is not None else sys.stdout
    is_terminal = out.isatty() and os.environ.get("TERM") != "dumb"
    exported = os.environ.get("COLUMNS", "")
    has_width = is_terminal or (exported.isdigit() and int(exported) > 0)
    width = None if has_width else _UNLIMITED
    return Console(file=out, width=width, no_color=None if is_terminal else True, highlight=False, emoji=False)


def print_table(table: Table, file: IO[str] | None = None) -> None:
    """Print a table to stdout or `file`, into a pipe without trailing blanks."""
    out = console(file)
    if out.is_terminal:
        out.print(table)
        return
    with out.capture() as captured:
        out.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    out.file.write("\n".join(lines).strip("\n") + "\n")


FASTEST = " *"
TIE = ", tie"
_PROJECTION_LAYOUT = Layout(
    left=("strategy", "bound by"),
    folds={"strategy": 20, "bound by": 20},
    drops=(
        *("idle", "p95 staleness", "max staleness", "staleness", "servers busy", "compute", "sent/worker"),
        *("exposed comm", "memory/GPU", "host reads", "host memory", "server queue", "error bar"),
    ),
)


def projection_table(rows: Sequence[Row], full_version: str = "--csv or --json") -> FittedTable:
    """Projected steps, one block per number of GPUs, with the fastest of each block marked; lower bounds do not count.

    Columns for error bars, spilled rows and parameter servers appear only if some row has them. A job that does not fit
    its GPUs shows its memory and no times. `full_version`: the options that print every column, for narrow terminals.
    """
    columns = _projection_columns(rows)
    layout = replace(_PROJECTION_LAYOUT, full_version=full_version)
    table = FittedTable(("GPUs", "strategy", *columns), layout)
    fastest: dict[int, Row] = {}
    for row in contenders(rows):
        best = fastest.setdefault(row["gpus"], row)
        fastest[row["gpus"]] = row if row["samples_per_s"] > best["samples_per_s"] else best
    if fastest:
        table.caption = "* fastest at this scale; tie: may be as fast"
    previous = None
    for row in rows:
        is_new_block = row["gpus"] != previous
        if is_new_block and previous is not None:
            table.add_section()
        previous = row["gpus"]
        gpus = f"{row['gpus']:,}" if is_new_block else ""
        label = strategy_label(row["strategy"])
        if row.get("does_not_fit"):
            shown = {"step": "does not fit", "memory/GPU": format_size(row["memory_bytes"])}
            table.add_texts([gpus, label, *(shown.get(name, "") for name in columns)])
            continue
        mark = _mark(row, fastest.get(row["gpus"]))
        cells = [gpus, f"{label}{mark}", *(text_of(row) for text_of in columns.values())]
        table.add_texts(cells, style="bold" if mark == FASTEST else None)
    return table


def _mark(row: Row, fastest: Row | None) -> str:
    """The mark behind the name of a row's strategy: the fastest of its scale, or a tie with it."""
    if fastest is None or row.get("lower_bound"):
        return ""
    if row["samples_per_s"] == fastest["samples_per_s"]:
        return FASTEST
    return TIE if is_tie(fastest, row) else ""


def _sent(row: Row) -> str:
    """The bytes that a worker sends, and the most that any worker sends where these differ."""
    mean = row["bytes_per_worker"]
    most = row.get("busiest_worker_bytes") or 0.0
    at_most = f", max {format_size(most, 3)}" if most > _NOTABLE * mean else ""
    return format_size(mean) + at_most


def _projection_columns(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """The columns after GPUs and strategy: header, and how a row's cell is written."""
    columns: dict[str, Callable[[Row], str]] = {
        "step": lambda row: format_time(row["step_time_s"]),
        "samples/s": lambda row: format_count(row["samples_per_s"]),
        "sent/worker": _sent,
        "memory/GPU": lambda row: format_size(row["memory_bytes"]),
    }
    if any(row.get("spill") for row in rows):
        columns |= {
            "host memory": lambda row: format_size(row["spill"]["host_bytes"]) if row.get("spill") else "",
            "host reads": lambda row: percent(row["spill"]["reads_share"]) if row.get("spill") else "",
        }
    columns |= {
        "compute": lambda row: format_time(row["compute_s"]),
        "exposed comm": lambda row: format_time(row["exposed_comm_s"]),
        "idle": lambda row: format_time(row["idle_s"]),
        "bound by": step_bound_label,
    }
    if any(row.get("servers") for row in rows):
        columns |= {
            "server queue": _of_servers("queue_s", format_time),
            "servers busy": _of_servers("busy_share", percent),
            "staleness": _of_servers("staleness_mean", "{:.3g}".format),
            "p95 staleness": _of_servers("staleness_p95", "{:.3g}".format),
            "max staleness": _of_servers("staleness_max", "{:.3g}".format),
        }
    if any(row.get("error_bar") is not None for row in rows):
        columns["error bar"] = lambda row: "" if row.get("error_bar") is None else f"±{100 * row['error_bar']:.0f} %"
    return columns


def _of_servers(key: str, text: Callable[[float], str]) -> Callable[[Row], str]:
    """Writes a value of a row's parameter servers; nothing for a row without servers."""
    return lambda row: text(row["servers"][key]) if row.get("servers") else ""


def collective_table(rows: Iterable[Row]) -> FittedTable:
    """The columns of nccl-tests; a GB is 1e9 bytes.

    Rows have `size_bytes`, `count`, `dtype`, `redop`, `time_s`, `algbw_GBps` and `busbw_GBps`.
    """
    rows = list(rows)
    columns = ["size", "count", "type", "redop", "time", "algbw", "busbw"]
    units = ["(B)", "(elements)", "", "", "(us)", "(GB/s)", "(GB/s)"]
    has_intervals = any(row.get("interval") for row in rows)
    if has_intervals:
        columns.append("80 % interval")
        units.append("(us)")
    table = FittedTable(columns, Layout(left=("type", "redop"), drops=("count", "type", "redop")))
    table.add_texts(units, style="dim")
    for row in rows:
        interval = row.get("interval")
        ends = [f"{interval['low_s'] * 1e6:.1f} to {interval['high_s'] * 1e6:.1f}" if interval else ""]
        cells = (
            f"{int(row['size_bytes'])}",
            f"{int(row['count'])}",
            row["dtype"],
            row["redop"],
            f"{row['time_s'] * 1e6:.2f}",
            _rate_text(row["algbw_GBps"]),
            _rate_text(row["busbw_GBps"]),
            *(ends if has_intervals else ()),
        )
        table.add_texts(cells)
    return table


def _rate_text(rate: float) -> str:
    """A bandwidth in two decimals, as nccl-tests prints it; below 1 GB/s in four significant digits."""
    return f"{rate:.2f}" if rate >= 1 else f"{rate:.4g}"


def what_if_table(asked: Iterable[tuple[Row, Sequence[Row]]]) -> FittedTable:
    """The gain of each change alone: for projected rows (`gpus`, `strategy`) or one replayed step (an empty row)."""
    asked = list(asked)
    has_names = any(row for row, _ in asked)
    columns = (*(("GPUs", "strategy") if has_names else ()), "what if", "step", "samples/s", "speedup")
    left = ("strategy", "what if")
    table = FittedTable(columns, Layout(left, folds={"strategy": 20}, drops=("samples/s", "step")))
    for row, changes in asked:
        names = [f"{row['gpus']:,}", strategy_label(row["strategy"])] if has_names else []
        for change in changes:
            outcome = ["does not fit", "", ""] if change["does_not_fit"] else _gain(change)
            table.add_texts([*names, change["change"], *outcome])
            names = [""] * len(names)  # written once per block
        table.add_section()
    return table


def _gain(change: Row) -> list[str]:
    throughput = change["samples_per_s"]
    samples = "not known" if throughput is None else format_count(throughput)
    return [format_time(change["step_time_s"]), samples, f"{change['speedup']:.3g}x"]


def table_of(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    left: Sequence[str] = (),
    folds: Mapping[str, int] | None = None,
    drops: Sequence[str] = (),
    full_version: str = "--json",
) -> FittedTable:
    """A table of texts, right-aligned except for the first column and those in `left`; the rest as in `Layout`."""
    table = FittedTable(columns, Layout((columns[0], *left), folds or {}, drops, full_version))
    for row in rows:
        table.add_texts(row)
    return table


def key_value_table(pairs: Mapping[str, object] | Iterable[tuple[str, object]]) -> Table:
    """Names and values, one pair per line; long values fold."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in pairs.items() if isinstance(pairs, Mapping) else pairs:
        table.add_row(Text(str(key)), Text(str(value)))
    return table


def projection_csv(rows: Iterable[Row]) -> str:
    """Projection rows as CSV, always the same columns in the same order."""
    return data_csv([_flat(row) for row in rows], PROJECTION_COLUMNS)


def write_projection_csv(path: str | Path, rows: Iterable[Row]) -> None:
    """Write `projection.csv` atomically."""
    write_text(path, projection_csv(rows))


def _flat(row: Row) -> dict[str, Any]:
    """A row with one value per column of `PROJECTION_COLUMNS`; columns it has no value for are left out."""
    flat = {key: "" if row[key] is None else row[key] for key in PROJECTION_COLUMNS if key in row}
    traffic = row.get("bytes_by_traffic") or {}
    if traffic:
        flat |= {f"bytes_{kind}": traffic.get(kind, 0) for kind in TRAFFIC}
    spill = row.get("spill") or {"host_bytes": 0, "reads_share": 0}
    flat |= {"host_bytes": spill["host_bytes"], "host_reads_share": spill["reads_share"]}
    servers = row.get("servers") or {}
    flat["servers"] = servers.get("count", "")
    flat |= {f"server_{key}": servers.get(key, "") for key in SERVER_COLUMNS}
    provenance = row.get("provenance") or {}
    flat |= {f"provenance_{quantity}": provenance.get(quantity, "") for quantity in _PROVENANCE}
    return flat
