"""The built site, checked without a network: every link leads to a file of the site, and every anchor exists."""

from __future__ import annotations

import posixpath
import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging

_LINK = re.compile(r'<(?:a|img|script|link)\b[^>]*?\s(?:href|src)="([^"]*)"')
_ID = re.compile(r'\sid="([^"]*)"')
_LOG = logging.getLogger(__name__)


def dead_links(site: Path) -> list[str]:
    """Links between the pages of a site to files or anchors that do not exist, as `page: link`."""
    pages = {path.relative_to(site).as_posix(): path.read_text("utf-8") for path in sorted(site.rglob("*.html"))}
    ids = {name: {unescape(found) for found in _ID.findall(text)} for name, text in pages.items()}
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    dead = []
    for name, text in pages.items():
        for link in dict.fromkeys(_LINK.findall(text)):
            parts = urlsplit(unescape(link))
            if parts.scheme or parts.netloc:
                continue
            path = posixpath.join(posixpath.dirname(name), unquote(parts.path))
            target = posixpath.normpath(path) if parts.path else name
            anchor = unquote(parts.fragment)
            if target not in files or (anchor and target in pages and anchor not in ids[target]):
                dead.append(f"{name}: {unescape(link)}")
    return dead


def _report(app: Sphinx, failure: Exception | None) -> None:
    if failure is None and app.builder.name == "html":
        for link in dead_links(Path(app.outdir)):
            _LOG.warning("dead link: %s", link)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", _report, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
