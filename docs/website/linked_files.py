"""Links from pages to source files, data and folders: the site has a copy of each file, and a list for each folder.

Copies of files that a browser would not show as text have `.txt` at the end of their name.
"""

from __future__ import annotations

import ast
import os
import shutil
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

_FOLDER = "files"
_SHOWN = {".txt", ".json", ".csv", ".xml", ".svg", ".log"}
_KEPT = _SHOWN | {".gz"}
_LISTED = {".py", ".toml", ".md", ".cpp"}


def copy_of(path: Path) -> str:
    """Where the site has the copy of a file, or the list of a folder, given relative to the repository."""
    if path.suffix in _KEPT:
        return f"{_FOLDER}/{path.as_posix()}"
    return f"{_FOLDER}/{path.as_posix()}.txt"


class LinkFiles(SphinxTransform):
    """Points links to files and folders of the repository at their copies. A link to nothing is left, and reported."""

    default_priority = 100

    def apply(self, **kwargs: object) -> None:
        """Replace the nodes of one page."""
        here = Path(self.env.doc2path(self.env.docname)).parent
        for link in [
            *self.document.findall(addnodes.download_reference),
            *self.document.findall(addnodes.pending_xref),
        ]:
            if link.get("refdomain") is not None:
                continue
            path = Path(os.path.normpath(here / link["reftarget"]))
            if path.exists() and path.is_relative_to(self.env.srcdir):
                relative = path.relative_to(self.env.srcdir)
                page_folder = Path(self.env.docname).parent
                target = os.path.relpath(copy_of(relative), page_folder)
                link.replace_self(nodes.reference("", "", *link.children, refuri=target, classes=["file"]))
                linked = self.env.metadata[self.env.docname].setdefault("linked_files", set())
                linked.add(relative.as_posix())


def _summary(path: Path) -> str:
    """The first line of a Python module's docstring."""
    if path.suffix != ".py":
        return ""
    text = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    return text.splitlines()[0] if text else ""


def _list_of(folder: Path) -> str:
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in _LISTED and path.name != "__init__.py"]
    width = max((len(path.name) for path in paths), default=0)
    lines = [f"{path.name:{width}}  {_summary(path)}".rstrip() for path in paths]
    return "\n".join([f"{folder.name}/", *lines, ""])


def _copy_files(app: Sphinx, failure: Exception | None) -> None:
    if failure is not None or app.builder.name != "html":
        return
    linked = {name for data in app.env.metadata.values() for name in data.get("linked_files", ())}
    for name in sorted(linked):
        source, copy = Path(app.srcdir) / name, Path(app.outdir) / copy_of(Path(name))
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            copy.write_text(_list_of(source), "utf-8")
        else:
            shutil.copyfile(source, copy)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_transform(LinkFiles)
    app.connect("build-finished", _copy_files, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
