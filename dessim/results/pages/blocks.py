"""The content of a page as data: sections of tables, figures, facts and text. Only `render` knows HTML.

Every text is plain text that `render` escapes; only `Figure.svg` is inserted as it is, after a check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dessim.results.labels import bound_label, step_bound_label
from dessim.results.style import strategy_label, style_of
from dessim.results.svg import Plot
from dessim.units import format_count, format_size, format_time, percent

DASH = "–"


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table. `sort` is the number by which its column is sorted; None: by its text, or last if empty.

    `swatch` is a colour before the text, `bar` a share from 0 to 1 that is drawn before it. `tag` frames the text:
    good, bad, warn or plain. `is_code` is for what one types.
    """

    text: str
    sort: float | None = None
    swatch: str = ""
    bar: float | None = None
    tag: str = ""
    is_code: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. Text is aligned to the `left`; `wide` text may be wrapped.

    With `choose` a reader may show the rows of one of its values.
    """

    title: str
    left: bool = False
    wide: bool = False
    choose: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `best` are the numbers of the rows in bold. `note` is below it."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    best: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its data. `on_paper`: drawn for a white background."""

    title: str
    svg: str
    caption: str
    csv: str = ""
    on_paper: bool = False

    @classmethod
    def of(cls, plot: Plot, caption: str) -> Figure:
        """The figure of a plot."""
        return cls(plot.name, str(plot), caption, plot.csv)


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; with `alert` (warn or bad) in a frame, behind the bold words `lead`."""

    text: str
    lead: str = ""
    alert: str = ""


@dataclass(frozen=True, slots=True)
class Tiles:
    """A few numbers in large type: name, value, note."""

    tiles: Sequence[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values."""

    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list; each point has bold words, maybe none, and text."""

    points: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Download:
    """A file that the page contains: `name`, its text, and what it is."""

    name: str
    content: str
    about: str


@dataclass(frozen=True, slots=True)
class Folded:
    """Blocks that are shown at a click on `title`."""

    title: str
    blocks: Sequence[Block]


Block = Table | Figure | Text | Tiles | Facts | Bullets | Download | Folded


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page under its own title."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Page:
    """A page: the question, the answer (its first sentence in larger type), what was asked, and sections.

    `summary` stands between the answer and the first section. `footer` names the program.
    """

    title: str
    question: str
    answer: Sequence[str]
    asked: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    summary: Sequence[Block] = ()
    alerts: Sequence[Text] = ()
    footer: str = ""


def text(value: object) -> Cell:
    """A cell of text; a value that is None becomes a dash."""
    return Cell(DASH if value is None else str(value))


def number(write: Callable[[float], str]) -> Callable[[float | None], Cell]:
    """Writer of cells of numbers, which sort by their value; None becomes a dash."""
    return lambda value: Cell(DASH) if value is None else Cell(write(value), sort=float(value))


time = number(format_time)
size = number(format_size)
quantity = number(format_count)
share = number(percent)
change = number(lambda value: percent(value, signed=True))
whole = number("{:,.0f}".format)
tiny = number("{:.2g}".format)
factor = number("{:.3g}×".format)


def share_bar(value: float, most: float = 1.0) -> Cell:
    """A share with a bar, which is full at `most`."""
    return Cell(percent(value), sort=value, bar=min(max(value / most, 0.0), 1.0) if most > 0 else 0.0)


def strategy(name: str, mark: str = "") -> Cell:
    """The words for a strategy, behind its colour in figures."""
    return Cell(strategy_label(name) + mark, swatch=style_of(name).color)


def bound(name: str | None) -> Cell:
    """The words for what bounds an op."""
    return Cell(bound_label(name) if name else DASH)


def step_bound(step: Mapping[str, Any]) -> Cell:
    """The words for what bounds a step."""
    return Cell(step_bound_label(step) or DASH)


def plus_minus(relative: float | None) -> Cell:
    """The half-width of an 80 % interval."""
    return Cell("not known") if relative is None else Cell(f"± {percent(relative)}", sort=relative)
