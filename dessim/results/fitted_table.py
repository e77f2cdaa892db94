"""A table that fits the width of its terminal without cutting a cell.

It folds long texts over several lines, then leaves out columns in a given order, and names them in a line below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import StyleType
from rich.table import Table
from rich.text import Text

_GAP = 3  # columns between two cells of box.SIMPLE_HEAD; one more at either edge


@dataclass(frozen=True, slots=True)
class Layout:
    """How a table adapts to its width; columns are given by their headers.

    `folds` are columns whose texts may fold, with the width each keeps. `drops` are columns to leave out for lack of
    width, in this order. `full_version` names the options that print every column.
    """

    left: Sequence[str] = ()
    folds: Mapping[str, int] = field(default_factory=dict)
    drops: Sequence[str] = ()
    full_version: str = "--json"


class FittedTable(Table):
    """A table that fits the width it is printed at; a line below it names the columns that did not fit."""

    def __init__(self, columns: Sequence[str], layout: Layout, caption: str | None = None) -> None:
        super().__init__(
            box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", caption=caption, caption_justify="left"
        )
        self.layout = layout
        for name in columns:
            justify: Literal["left", "right"] = "left" if name in layout.left else "right"
            self.add_column(name, justify=justify, no_wrap=name not in layout.folds, overflow="fold")

    def add_texts(self, cells: Iterable[object], style: StyleType | None = None) -> None:
        """Add a row; no cell is read as rich markup."""
        self.add_row(*(Text(str(cell)) for cell in cells), style=style)

    def omitted_at(self, width: int) -> list[str]:
        """The columns that are left out at `width`, in the order of the table."""
        dropped: set[str] = set()
        for name in self.layout.drops:
            if self._least_width(dropped) <= width:
                break
            dropped.add(name)
        return [str(column.header) for column in self.columns if column.header in dropped]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        omitted = self.omitted_at(options.max_width)
        yield from super(FittedTable, self._without(omitted, options.max_width)).__rich_console__(console, options)
        if omitted:
            names = ", ".join(omitted)
            yield Text(f"not shown for lack of width: {names} (widen the terminal, or use {self.layout.full_version})")

    def _without(self, omitted: Sequence[str], width: int) -> FittedTable:
        kept = [column for column in self.columns if column.header not in omitted]
        layout = self.layout
        if self._least_width(omitted) > width:
            # Still too wide: fold everything rather than cut anything.
            layout = Layout(left=layout.left, folds={str(column.header): 1 for column in kept})
        table = FittedTable([str(column.header) for column in kept], layout, str(self.caption or "") or None)
        cells = zip(*(column.cells for column in kept), strict=True)
        for row, texts in zip(self.rows, cells, strict=False):
            table.add_row(*texts, style=row.style, end_section=row.end_section)
        return table

    def _least_width(self, omitted: Iterable[str]) -> int:
        """The width at which the table needs no more than its foldable texts folded."""
        widths = []
        for column in self.columns:
            header = str(column.header)
            if header not in omitted:
                natural = max([cell_len(header), *(cell_len(str(cell)) for cell in column.cells)])
                folded = max(self.layout.folds.get(header, natural), cell_len(header))
                widths.append(min(natural, folded))
        return sum(widths) + _GAP * (len(widths) - 1) + 2
