"""Blocks of a terminal: the commands stand out, and what they print is left as it is.

The lexer of Pygments would take a printed line that begins with `#` for a command of root.
"""

from __future__ import annotations

from pygments.lexer import RegexLexer
from pygments.token import Generic, Text
from sphinx.application import Sphinx


class Console(RegexLexer):
    """Lines after `$ `, with their continuations, are commands."""

    name = "console"
    tokens = {"root": [(r"^\$ (?:[^\n]*\\\n)*[^\n]*\n", Generic.Strong), (r"[^\n]*\n", Text)]}  # noqa: RUF012


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_lexer("console", Console)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
