"""The fastest points of a grid on the terminal: what `dessim sweep` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dessim.results.show import print_text
from dessim.results.style import strategy_label
from dessim.results.tables import print_table, table_of
from dessim.units import format_count, format_time

Value = float | int | str | bool
_GROUP = ("model", "cluster", "gpus")
_ALWAYS = ("cluster", "gpus", "strategy")
_MOST = 5  # rows that are printed; results.csv has all


def print_fastest(axes: Sequence[str], rows: Sequence[Mapping[str, Value]]) -> None:
    """Print the fastest point of each model, cluster and number of GPUs, in the order of the grid.

    `rows` are those of results.csv with times, and `axes` its columns that tell points apart.
    """
    fastest: dict[tuple[Value | None, ...], Mapping[str, Value]] = {}
    for row in rows:
        if row.get("lower_bound") in (True, "true"):
            continue
        best = fastest.setdefault(tuple(map(row.get, _GROUP)), row)
        if float(row["samples_per_s"]) > float(best["samples_per_s"]):
            fastest[tuple(map(row.get, _GROUP))] = row
    if not fastest:
        return
    shown = [axis for axis in axes if axis in _ALWAYS or len({row.get(axis) for row in rows}) > 1]
    cells = [
        (
            *(_text(axis, row.get(axis, "")) for axis in shown),
            format_time(float(row["step_time_s"])),
            format_count(float(row["samples_per_s"])),
        )
        for row in list(fastest.values())[:_MOST]
    ]
    each = "model, cluster" if "model" in shown else "cluster"
    more = f", the first {_MOST} of {len(fastest):,}" if len(fastest) > _MOST else ""
    print_text(f"fastest point of each {each} and number of GPUs{more}:")
    columns = [{"gpus": "GPUs", "batch_per_gpu": "samples a GPU"}.get(axis, axis.replace("_", " ")) for axis in shown]
    drops = [column for column in columns if column not in ("cluster", "GPUs", "strategy")]
    print_table(
        table_of(
            (*columns, "step", "samples/s"),
            cells,
            left=[column for column in columns if column not in ("GPUs", "samples a GPU")],
            folds={"strategy": 20},
            drops=drops,
            full_version="results.csv",
        )
    )


def _text(axis: str, value: Value) -> str:
    if axis == "strategy":
        return strategy_label(str(value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
