"""The sidebar: under each heading of docs/README.md, the pages to which that section links.

A page that several sections link to stands where a list or a table names it, with the name that it has there. A page to
which no section links is a warning of Sphinx, hence an error.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_NAMED = re.compile(r"^(?:- |\| )\[([^\]]+)\]\(([^)#:]+)\.md\)", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#:]+)\.md(?:#[^)]*)?\)")


def contents(index: str) -> str:
    """One hidden table of contents for each section of the index that links to pages."""
    names = {page: name for name, page in _NAMED.findall(index)}
    sections = _SECTION.split(index)[1:]
    trees, placed = list[str](), set[str]()
    for caption, text in zip(sections[::2], sections[1::2], strict=True):
        named = [page for _, page in _NAMED.findall(text)]
        linked = [page for page in _LINK.findall(text) if page not in names]
        pages = [page for page in dict.fromkeys((*named, *linked)) if page not in placed]
        placed.update(pages)
        if pages:
            entries = [f"{names[page]} <{page}>" if page in names else page for page in pages]
            trees.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```", ""]))
    return "\n".join(trees)


def _add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname == app.config.root_doc:
        source[0] = f"{source[0]}\n\n{contents(source[0])}"


def _write_entrance(app: Sphinx, failure: Exception | None) -> None:
    """`index.html` leads to the index by task."""
    if failure is None and app.builder.name == "html":
        target = app.builder.get_target_uri(app.config.root_doc)
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>dessim</title>'
            f'<meta http-equiv="refresh" content="0; url={target}">'
            f'<a href="{target}">Documentation of dessim</a></html>\n'
        )
        (app.outdir / "index.html").write_text(page, "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", _add_contents)
    app.connect("build-finished", _write_entrance, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
