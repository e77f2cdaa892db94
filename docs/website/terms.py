"""The first mention of a glossary term on each page becomes a link to the term, with its meaning as the tooltip.

The pages themselves contain no markup for this. Words that pages also use in an everyday sense are not linked.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

_GLOSSARY = "docs/glossary"
_ROW = re.compile(r"^\| (?!term \|)([^|]+) \| (.+) \|$", re.MULTILINE)
_EVERYDAY = re.compile(
    "bed|block|case|field|group|leg|link|message|operand|owner|partial|phase|plan|point|reply|request|round|row|size|stage"
    "|step|tail|transfer|transport|variation"
)
_NOT_IN = (nodes.literal, nodes.literal_block, nodes.reference, addnodes.pending_xref, nodes.title, nodes.thead)


def terms_of(glossary: str) -> dict[str, str]:
    """Each term of the glossary's tables, and its meaning as plain text."""
    found = dict[str, str]()
    for names, meaning in _ROW.findall(glossary):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", meaning)
        found |= dict.fromkeys(_names(names), plain)
    return found


def _names(cell: str) -> list[str]:
    """The terms of a row's first cell."""
    return re.sub(r" \([^)]*\)| S$", "", cell.strip()).split(", ")


def anchor_of(term: str) -> str:
    """The anchor of a term in the glossary's page."""
    return f"term-{nodes.make_id(term)}"


@cache
def _pattern(terms: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(terms, key=lambda term: (-len(term), term))
    names = "|".join(re.escape(term) for term in longest_first)
    return re.compile(rf"(?<![\w/.-])({names})(?:s|es)?(?![\w-]| correlation)", re.IGNORECASE)


def _known(word: str, terms: dict[str, str]) -> str | None:
    """The term that a word of a text is: names keep their capitals, other terms may open a sentence."""
    if word in terms:
        return word
    lowered = word[:1].lower() + word[1:]
    return lowered if lowered in terms else None


def _link_terms(app: Sphinx, document: nodes.document) -> None:
    terms = terms_of((Path(app.srcdir) / f"{_GLOSSARY}.md").read_text("utf-8"))
    docname = app.env.docname
    if docname == _GLOSSARY:
        _add_anchors(document, terms)
        return
    glossary = os.path.relpath(f"{_GLOSSARY}.html", Path(docname).parent)
    waiting = {term: meaning for term, meaning in terms.items() if not _EVERYDAY.fullmatch(term)}
    pattern = _pattern(tuple(waiting))
    for text in list(document.findall(nodes.Text)):
        if not _is_prose(text):
            continue
        pieces, end = list[nodes.Node](), 0
        for match in pattern.finditer(text):
            term = _known(match[1], waiting)
            if term is None:
                continue
            meaning = waiting.pop(term)
            target = f"{glossary}#{anchor_of(term)}"
            link = nodes.reference("", match[0], refuri=target, reftitle=meaning, classes=["term"])
            pieces += [nodes.Text(text[end : match.start()]), link]
            end = match.end()
        if pieces and text.parent is not None:
            text.parent.replace(text, [*pieces, nodes.Text(text[end:])])


def _is_prose(text: nodes.Text) -> bool:
    node: nodes.Node | None = text.parent
    while node is not None:
        if isinstance(node, _NOT_IN):
            return False
        node = node.parent
    return True


def _add_anchors(document: nodes.document, terms: dict[str, str]) -> None:
    for row in document.findall(nodes.row):
        cell = row.children[0]
        names = _names(cell.astext())
        if isinstance(cell, nodes.Element) and names[0] in terms:
            cell.children[0:0] = [nodes.target("", "", ids=[anchor_of(name)]) for name in names]
            for child in cell.children:
                child.parent = cell


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-read", _link_terms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
