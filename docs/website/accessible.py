"""What furo's pages lack for readers without a mouse or a screen: names of landmarks, levels of headings, focus.

Code and tables scroll sideways on a narrow screen; with `tabindex` the keyboard alone reaches and scrolls them.
"""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx

_BETTER = {
    "<pre>": '<pre tabindex="0">',
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    'class="caption" role="heading"': 'class="caption" role="heading" aria-level="2"',
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="Pages">',
    '<aside class="toc-drawer': '<aside aria-label="On this page" class="toc-drawer',
}


def _improve(app: Sphinx, failure: Exception | None) -> None:
    if failure is None and app.builder.name == "html":
        for page in Path(app.outdir).rglob("*.html"):
            text = page.read_text("utf-8")
            for plain, better in _BETTER.items():
                text = text.replace(plain, better)
            page.write_text(text, "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", _improve, priority=450)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
