"""A figure as SVG text, written to a file with its data as CSV beside it, or made fit for pasting into a page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from dessim.files import write_text
from dessim.results.rows import Row, data_csv
from dessim.results.style import INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Plot(str):
    """The SVG text of a figure, which knows its `name` and its data as `csv`."""

    __slots__ = ("csv", "name")
    name: str
    csv: str

    def __new__(cls, svg: str, name: str, csv: str) -> Plot:
        plot = super().__new__(cls, svg)
        plot.name = name
        plot.csv = csv
        return plot


def finish(
    figure: Figure,
    title: str,
    rows: Sequence[Row],
    columns: Sequence[str],
    path: Path | None,
    nested: Sequence[str] = (),
) -> Plot:
    """Write the figure and its data to `path` if given; return the SVG to paste into a page.

    The CSV has `columns` of the rows, after `gpus` and `strategy` if they have these; `nested` is as in `data_csv`.
    """
    first = ("gpus", "strategy") if rows and "gpus" in rows[0] else ()
    data = data_csv(rows, list(dict.fromkeys([*first, *columns])), nested)
    return plotted(figure, title, data, path, re.sub(r"\W+", "-", title.lower()))


def plotted(figure: Figure, title: str, data: str, path: Path | None, prefix: str) -> Plot:
    """Write the figure and its `data`, a CSV text, to `path` if given; return the SVG to paste, its ids prefixed."""
    if path is None:
        svg = svg_text(figure, title, "none")
    else:
        svg = svg_text(figure, title)
        write_text(path, svg)
        write_text(path.with_suffix(".csv"), data)
        svg = svg.replace("fill: #ffffff", "fill: none", 1)  # the background, which is drawn first
    return Plot(inline(svg, prefix), title, data)


def svg_text(figure: Figure, title: str, background: str = "white") -> str:
    """The figure as SVG text; the same figure gives the same bytes."""
    out = io.StringIO()
    metadata = {"Date": None, "Creator": None, "Title": title}
    figure.savefig(out, format="svg", metadata=metadata, facecolor=background, bbox_inches="tight", pad_inches=0.06)
    return out.getvalue()


def inline(svg: str, name: str) -> str:
    """An SVG file's text for pasting into a page: no XML prologue, ids prefixed by `name`, ink in the page's colour."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = svg.replace(INK, "currentColor")
    if "aria-label=" in svg[: svg.index(">")]:
        return svg
    label = escape(name.replace("-", " "), {'"': "&quot;"})
    return re.sub(r"<svg\b", f'<svg role="img" aria-label="{label}"', svg, count=1)
