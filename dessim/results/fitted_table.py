"""A table that fits the width of its terminal without cutting a cell.

It folds long texts over several lines, then leaves out columns in a given order, and names them in a line below.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import StyleType
from rich.table import Column, Table
from rich.text import Text

_GAP = 3  # columns between two cells of box.SIMPLE_HEAD; one more at either edge
_NO_BREAK = "\N{NO-BREAK SPACE}"
_BOUND = re.compile(r" (?=[*%](?!\w))|(?<=\d) (?=[A-Za-z])")
"""A space at which no line ends: before the mark of a row, a per cent sign, or what a number counts."""
_SYLLABLES = re.compile(r"[^_./:]*[_./:]+|[^_./:]+")


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
        widths = self._widths(kept, width - _margins(len(kept)))
        table = FittedTable([str(column.header) for column in kept], self.layout, str(self.caption or "") or None)
        for column, column_width in zip(table.columns, widths, strict=True):
            column.width = column_width
            column.no_wrap = False
        folded = (
            [_folded(str(cell), column_width) for cell in column.cells]
            for column, column_width in zip(kept, widths, strict=True)
        )
        for row, texts in zip(self.rows, zip(*folded, strict=True), strict=False):
            table.add_row(*texts, style=row.style, end_section=row.end_section)
        return table

    def _widths(self, columns: Sequence[Column], available: int) -> list[int]:
        """The width of each column. As far as needed, the widest are narrowed; words break only as a last resort."""
        widths = [_natural(column) for column in columns]
        stated = [self._stated(column) for column in columns]
        words = [max(cell_len(word) for text in _texts(column) for word in _words(text)) for column in columns]
        folds = [str(column.header) in self.layout.folds for column in columns]
        at_words = [min(word, most) if fold else most for word, most, fold in zip(words, stated, folds, strict=True)]
        for least in (stated, at_words, words, [1] * len(columns)):
            while sum(widths) > available:
                wider = [n for n, width in enumerate(widths) if width > least[n]]
                if not wider:
                    break
                widths[max(wider, key=widths.__getitem__)] -= 1
        return widths

    def _least_width(self, omitted: Iterable[str]) -> int:
        """The width at which the table needs no more than its foldable texts folded."""
        widths = [self._stated(column) for column in self.columns if str(column.header) not in omitted]
        return sum(widths) + _margins(len(widths))

    def _stated(self, column: Column) -> int:
        """The width that the layout keeps for a column."""
        header = str(column.header)
        natural = _natural(column)
        return min(natural, max(self.layout.folds.get(header, natural), cell_len(header)))


def _margins(columns: int) -> int:
    return _GAP * (columns - 1) + 2


def _texts(column: Column) -> list[str]:
    return [str(column.header), *map(str, column.cells)]


def _natural(column: Column) -> int:
    return max(map(cell_len, _texts(column)))


def _words(text: str) -> list[str]:
    """The words of a text; a mark or a unit belongs to what is before it."""
    return _BOUND.sub(_NO_BREAK, text).split(" ")


def _folded(text: str, width: int) -> Text:
    """The text in lines of at most `width`."""
    if cell_len(text) <= width:
        return Text(text)
    parts = (part for word in _words(text) for part in _parts(word, width))
    lines = textwrap.wrap(" ".join(parts), width, break_on_hyphens=False)
    return Text("\n".join(lines).replace(_NO_BREAK, " "))


def _parts(word: str, width: int) -> Iterator[str]:
    """A word in parts of at most `width`, of which no two fit one line; a name breaks behind `_`, `.`, `/` or `:`."""
    line = ""
    for part in _SYLLABLES.findall(word):
        if line and len(line) + len(part) > width:
            yield line
            line = ""
        line += part
        while len(line) > width:
            yield line[:width]
            line = line[width:]
    yield line
