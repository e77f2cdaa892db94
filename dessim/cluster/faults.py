"""Links that are slower than built, or down: found by name, and changed.

A link is `leaf3 -> spine1` (one direction) or `leaf3 <-> spine1` (both), with vertices named as in `dessim topo`. The
name of a switch, NIC or GPU alone stands for all links that begin or end there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from dessim.cluster.links import IntArray, Layer, Links
from dessim.errors import ClusterError
from dessim.wording import like

_DIGITS = 18  # of an index in a name, at most; Python refuses to read numbers of thousands of digits
_LISTED_NEIGHBOURS = 8
"""Neighbours that an error message lists by name."""


def find_links(links: Links, name: str, path: Path) -> IntArray:
    """Return the ids of the links that a name stands for. Raises ClusterError, for file `path`, if there are none."""
    ends = [end.strip() for end in re.split(r"<->|->", name)]
    vertices = [_vertex(links, end, path) for end in ends]
    if len(ends) == 1:
        return np.flatnonzero((links.src == vertices[0]) | (links.dst == vertices[0]))
    if len(ends) > 2:
        raise ClusterError(
            path, name, 'not a link; write "leaf3 -> spine1", "leaf3 <-> spine1", or "spine1" for all of its links'
        )
    a, b = vertices
    matches = (links.src == a) & (links.dst == b)
    if "<->" in name:
        matches |= (links.src == b) & (links.dst == a)
    if matches.any():
        return np.flatnonzero(matches)
    neighbours = links.dst[links.src == a]
    listed = ", ".join(links.vertex_name(int(vertex)) for vertex in neighbours[:_LISTED_NEIGHBOURS])
    n_more = len(neighbours) - _LISTED_NEIGHBOURS
    more = f" and {n_more} more" if n_more > 0 else ""
    raise ClusterError(path, name, f"{ends[0]} has no link to {ends[1]}; it has links to {listed or 'none'}{more}")


def with_changed_capacity(links: Links, changes: Iterable[tuple[str | ArrayLike, float]], path: Path) -> Links:
    """Return `links` with the capacity of some reduced; `changes` are those of `Cluster.with_links`.

    Raises ClusterError for an unknown name, an id out of range, or a share outside 0 to 1.
    """
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
    """The id of a vertex, parsed from its name: a large cluster has too many vertices to list all names."""
    for layer in links.layers:
        index = _index_in(layer, name)
        if index is not None and index < layer.count:
            return layer.first + index
    hint = ""
    suggestion = _suggest(links, name)
    if suggestion:
        hint = f"did you mean {suggestion!r}? "
    ranges = ", ".join(f"{layer.name(0)} to {layer.name(layer.count - 1)}" for layer in links.layers)
    raise ClusterError(path, name, f"nothing is called {name!r}; {hint}there are {ranges}")


def _suggest(links: Links, name: str) -> str:
    """The name of a vertex whose kind is spelled almost as in `name`; empty if there is none."""
    kind_in_name = re.search(r"([a-z]+)\d*$", name)
    if not kind_in_name:
        return ""
    close = like(kind_in_name[1], [layer.kind for layer in links.layers])
    if not close:
        return ""
    likely = name[: kind_in_name.start()] + close[0] + name[kind_in_name.end(1) :]
    exists = any(_index_in(layer, likely) in range(layer.count) for layer in links.layers)
    return likely if likely != name and exists else ""


def _index_in(layer: Layer, name: str) -> int | None:
    """The inverse of `Layer.name`. The index may lie beyond the end of the layer; None if it lies before its start."""
    if layer.names:
        return layer.names.index(name) if name in layer.names else None
    if layer.kind == "gpu" or not layer.per_node:
        match = re.fullmatch(rf"{layer.kind}(\d{{1,{_DIGITS}}})", name)
        return _none_if_negative(int(match[1]) - layer.first_gpu) if match else None
    match = re.fullmatch(rf"node(\d{{1,{_DIGITS}}})/{layer.kind}(\d{{0,{_DIGITS}}})", name)
    if not match or (match[2] == "") != (layer.kind == "nvswitch"):
        return None
    local = int(match[2] or 0)
    if local >= layer.per_node:
        return None
    return _none_if_negative((int(match[1]) - layer.first_node) * layer.per_node + local)


def _none_if_negative(index: int) -> int | None:
    return index if index >= 0 else None
