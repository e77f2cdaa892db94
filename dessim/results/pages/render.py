"""A page as one HTML file that needs no other: styles, figures, data and a short script are inside.

The script sorts and filters tables; without scripts the page is complete. Nothing is loaded, and the page's
content-security policy runs no script but this one, by its hash. The template escapes every value of a page; of SVG,
only what can neither run nor load anything is inserted. The same page gives the same bytes.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dessim.files import write_text
from dessim.results.pages.blocks import Cell, Column, Download, Figure, Page, Table
from dessim.results.svg import inline

if TYPE_CHECKING:
    from jinja2 import Environment

SHOWN_ROWS = 100
"""Rows of a figure's data that its table shows; the file has all."""
_FORBIDDEN = re.compile(
    r"<\s*(script|foreignObject|iframe|object|embed|image)\b|<[^>]*\s(on\w+\s*=|(xlink:)?href\s*=(?!\s*[\"']?#))", re.I
)


def render(page: Page) -> str:
    """The page as HTML text. Raises ValueError for a figure that could run or load something."""
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = _environment().get_template("page.html.j2")
    html: str = template.render(
        page=page,
        footer=page.footer or f"dessim {version('dessim')}",
        script=_markup(script),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'",
    )
    return html


def write_page(path: str | Path, page: Page) -> None:
    """Write the page, whole or not at all."""
    write_text(path, render(page))


def checked_drawing(svg: str, name: str) -> str:
    """An SVG file's text for a figure, its ids prefixed by `name`."""
    return inline(plain_svg(svg), name)


def plain_svg(svg: str) -> str:
    """The SVG itself. Raises ValueError if it could run or load something."""
    if _FORBIDDEN.search(svg):
        raise ValueError("the cluster drawing holds something that could run or load; it must be plain SVG")
    return svg


def data_of(figure: Figure) -> Table:
    """The first rows of a figure's data as a table."""
    names, *rows = csv.reader(io.StringIO(figure.csv))
    shown = rows[:SHOWN_ROWS]
    is_number = [all(_is_number(row[i]) for row in shown if row[i]) for i in range(len(names))]
    hidden = len(rows) - len(shown)
    return Table(
        title=f"Data: {figure.title}",
        columns=[Column(name, left=not is_number[i]) for i, name in enumerate(names)],
        rows=[[_data_cell(text, is_number[i]) for i, text in enumerate(row)] for row in shown],
        note=f"and {hidden:,} more rows in the file" if hidden else "",
    )


def _data_cell(text: str, is_number: bool) -> Cell:
    return Cell(f"{float(text):.6g}", sort=float(text)) if is_number and text else Cell(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def download_of(figure: Figure) -> Download:
    """The file with a figure's data."""
    return Download(f"{_slug(figure.title)}.csv", figure.csv, "")


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _kind(block: object) -> str:
    """The name of the macro of a block."""
    return type(block).__name__.lower()


def _data_uri(download: Download) -> str:
    content = base64.b64encode(download.content.encode("utf-8", "backslashreplace")).decode()
    return f"data:text/csv;charset=utf-8;base64,{content}"


@cache
def _script() -> str:
    return files("dessim.results").joinpath("templates", "page.js").read_text("utf-8")


def _markup(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dessim.results"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "kind": _kind,
        "slug": _slug,
        "data_uri": _data_uri,
        "data_table": data_of,
        "download": download_of,
        "plain_svg": lambda svg: _markup(plain_svg(svg)),
    }
    return environment
