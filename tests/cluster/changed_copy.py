"""A copy of a shipped cluster with a few changes in its topology file."""

from __future__ import annotations

from pathlib import Path

from dessim.cluster import Cluster, load_cluster


def changed(folder: Path, name: str, *changes: tuple[str, str], more: str = "") -> Cluster:
    """The cluster with texts replaced, and with more text at the end of its file."""
    text = load_cluster(name).path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "changed.toml"
    path.write_text(text + more)
    return load_cluster(path)
