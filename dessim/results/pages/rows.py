"""The page of any table of results: flat rows whose keys end in their units, such as those of `dessim sweep`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dessim.results.labels import bound_label
from dessim.results.pages import blocks as b
from dessim.results.pages.blocks import Block, Cell, Column, Download, Figure, Page, Section, Table, Text
from dessim.results.pages.question import Asked
from dessim.results.rows import data_csv
from dessim.results.svg import Plot
from dessim.units import format_bandwidth, format_count, format_size, format_time, percent

Value = str | int | float | bool | None
_WRITERS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("samples_per_s", "samples/s", format_count),
    ("_GBps", "GB/s", lambda value: format_bandwidth(value * 1e9)),
    ("_GiB", "GiB", "{:,.4g} GiB".format),
    ("_bytes", "", format_size),
    ("bytes_per_worker", "sent by a worker", format_size),
    ("_us", "", lambda value: format_time(value * 1e-6)),
    ("_s", "", format_time),
    ("_share", "share", percent),
    ("error_bar", "error bar (80 %)", lambda value: f"± {percent(value)}"),
)
"""End of a key, title of its column (none: the key without its unit), and how a value is written."""
_TITLES = {"gpus": "GPUs", "batch_per_gpu": "batch per GPU", "low_s": "from (80 %)", "high_s": "to (80 %)"}
_MOST_CHOICES = 40


def rows_page(
    title: str,
    question: str,
    answer: Sequence[str],
    asked: Asked,
    rows: Sequence[Mapping[str, Value]],
    *,
    plots: Sequence[tuple[Plot, str]] = (),
    first: Sequence[Block] = (),
    data: Sequence[Mapping[str, Value]] | None = None,
) -> Page:
    """A page of `rows`, in their order, which is the ranking. A row may lack some keys.

    `plots` are figures with their captions. `first` are blocks before the table, such as failures or a comparison.
    `data` are the rows of the CSV file, which may have more columns.
    """
    whole = rows if data is None else data
    keys = list(dict.fromkeys(key for row in whole for key in row))
    figures = [Figure.of(plot, caption) for plot, caption in plots]
    return Page(
        title=title,
        question=question,
        answer=answer,
        asked=asked,
        sections=[
            *([Section("Figures", figures)] if figures else []),
            Section("Rows", [*first, rows_table(rows)]),
            Section(
                "Data",
                [
                    Download(
                        "rows.csv",
                        data_csv(whole, keys),
                        "every row, with units in the names of columns",
                    )
                ],
            ),
        ],
    )


def rows_table(rows: Sequence[Mapping[str, Value]], title: str = "Rows") -> Table | Text:
    """Flat rows as a table that sorts by the values, not by their texts."""
    if not rows:
        return Text("There are no rows.")
    keys = list(dict.fromkeys(key for row in rows for key in row))
    is_text = {key: any(isinstance(row.get(key), str) for row in rows) for key in keys}
    columns = [
        Column(
            column_title(key),
            left=is_text[key],
            wide=is_text[key],
            choose=len({row.get(key) for row in rows}) <= _MOST_CHOICES and (is_text[key] or key in ("gpus", "batch")),
        )
        for key in keys
    ]
    return Table(title, columns, [[_cell(key, row.get(key)) for key in keys] for row in rows])


def column_title(key: str) -> str:
    """The heading of a key's column: the key without its unit, in words."""
    if key in _TITLES:
        return _TITLES[key]
    for end, title, _ in _WRITERS:
        if key == end or (end.startswith("_") and key.endswith(end)):
            name = key.removesuffix(end).replace("_", " ").strip()
            return title if key == end or not name else name
    return key.replace("_", " ")


def _cell(key: str, value: Value) -> Cell:
    if value is None or value == "":
        return b.text(None)
    if key == "strategy":
        return b.strategy(str(value))
    if key == "bound_by":
        return Cell(bound_label(str(value)))
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, str):
        return Cell(value)
    for end, _, write in _WRITERS:
        if key == end or (end.startswith("_") and key.endswith(end)):
            return Cell(write(value), sort=float(value))
    return Cell(f"{value:,}" if isinstance(value, int) else f"{value:,.6g}", sort=float(value))
