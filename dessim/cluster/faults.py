"""Links that are slower than built, or down: found by name, and changed.

A link is `leaf3 -> spine1` (one direction) or `leaf3 <-> spine1` (both), as `dessim topo` names vertices; the name of
a switch, NIC or GPU alone stands for all links that begin or end there.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from dessim.cluster.links import IntArray, Layer, Links
from dessim.errors import ClusterError


def find_links(links: Links, name: str, path: Path) -> IntArray:
    """Ids of the links that a name stands for. Raises ClusterError, on `path`, where there are none."""
    ends = [end.strip() for end in re.split(r"<->|->", name)]
    vertices = [_vertex(links, end, path) for end in ends]
    if len(ends) == 1:
        return np.flatnonzero((links.src == vertices[0]) | (links.dst == vertices[0]))
    if len(ends) == 2:
        a, b = vertices
        found = (links.src == a) & (links.dst == b)
        if "<->" in name:
            found |= (links.src == b) & (links.dst == a)
        if found.any():
            return np.flatnonzero(found)
        neighbours = links.dst[links.src == a]
        listed = ", ".join(links.vertex_name(int(vertex)) for vertex in neighbours[:8])
        more = f" and {len(neighbours) - 8} more" if len(neighbours) > 8 else ""
        raise ClusterError(path, name, f"{ends[0]} has no link to {ends[1]}; it has links to {listed or 'none'}{more}")
    raise ClusterError(
        path, name, 'no link; write "leaf3 -> spine1", "leaf3 <-> spine1", or "spine1" for all of its links'
    )


def changed(links: Links, changes: Iterable[tuple[str | ArrayLike, float]], path: Path) -> Links:
    """`Cluster.with_links`."""
    capacity = links.capacity.copy()
    for which, share in changes:
        if not 0 <= share <= 1:
            raise ClusterError(path, str(which), f"a share of {share:g} of a link; write 0 (down) to 1 (as built)")
        ids = find_links(links, which, path) if isinstance(which, str) else np.asarray(which, dtype=np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() < len(links):
            raise ClusterError(path, "", f"a link id is outside 0..{len(links) - 1}")
        capacity[ids] = links.capacity[ids] * share
    capacity.flags.writeable = False
    return replace(links, capacity=capacity)


def _vertex(links: Links, name: str, path: Path) -> int:
    """The id of a vertex. Its number is taken out of its name: a large cluster has too many to name them all."""
    for layer in links.layers:
        index = _index(layer, name)
        if index is not None and index < layer.count:
            return layer.first + index
    kinds = {layer.kind: layer for layer in links.layers}
    word = re.search(r"([a-z]+)\d*$", name)
    close = difflib.get_close_matches(word[1] if word else "", kinds, n=1)
    likely = name[: word.start()] + close[0] + name[word.end(1) :] if word and close else ""
    hint = ""
    if likely != name and any(_index(layer, likely) in range(layer.count) for layer in links.layers):
        hint = f"did you mean {likely!r}? "
    ranges = ", ".join(f"{layer.name(0)} to {layer.name(layer.count - 1)}" for layer in links.layers)
    raise ClusterError(path, name, f"nothing is called {name!r}; {hint}there are {ranges}")


def _index(layer: Layer, name: str) -> int | None:
    """The inverse of `Layer.name`; maybe beyond the layer's end."""
    if layer.names:
        return layer.names.index(name) if name in layer.names else None
    if layer.kind == "gpu" or not layer.per_node:
        match = re.fullmatch(rf"{layer.kind}(\d+)", name)
        return _beyond(int(match[1]) - layer.first_gpu) if match else None
    match = re.fullmatch(rf"node(\d+)/{layer.kind}(\d*)", name)
    if not match or (match[2] == "") != (layer.kind == "nvswitch"):
        return None
    local = int(match[2] or 0)
    return _beyond((int(match[1]) - layer.first_node) * layer.per_node + local) if local < layer.per_node else None


def _beyond(index: int) -> int | None:
    """None for what is before the layer."""
    return index if index >= 0 else None
