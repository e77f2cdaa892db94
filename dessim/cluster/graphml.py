"""Switches and cables from a GraphML file, as drawing programs and topology collections write them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx

from dessim.cluster.fabrics.graph import Edge, Plan
from dessim.cluster.parts import Link
from dessim.errors import UnitError
from dessim.units import parse_bandwidth


def read_graphml(path: Path, cable: Link) -> Plan:
    """Vertices are switches; their attribute `nodes` says how many nodes hang on them (none: 0).

    An edge is a cable like `cable`; its attributes `cables` (a number) and `rate` ("400 Gb/s") change that. Parallel
    edges add up. Raises ValueError, which names the file and what is wrong in it.
    """
    where = f"graphml = {str(path)!r}"
    try:
        read: nx.Graph[Any] = nx.read_graphml(path, force_multigraph=True)
    except OSError as error:
        raise ValueError(f"{where}: {error.strerror or error}") from None
    except Exception as error:  # whatever the XML reader says of a file that is not GraphML
        raise ValueError(f"{where}: not GraphML: {error}") from None
    if read.is_directed():
        raise ValueError(f'{where}: its edges are directed; write edgedefault="undirected"')
    nodes = [_whole(data.get("nodes", 0), 0, f"{where}: nodes of {name!r}") for name, data in read.nodes(data=True)]
    edges: dict[tuple[str, str], Edge] = {}
    for a, b, data in read.edges(data=True):
        what = f"between {a!r} and {b!r}"
        count = _whole(data.get("cables", 1), 1, f"{where}: cables {what}")
        edge = Edge(a, b, count, _at_rate(cable, data.get("rate"), f"{where}: {what}"))
        pair = (min(a, b), max(a, b))
        before = edges.get(pair)
        if before is not None and before.link != edge.link:
            raise ValueError(f"{where}: parallel edges {what} differ in rate")
        edges[pair] = replace(before, cables=before.cables + count) if before else edge
    return Plan(tuple(read), tuple(edges.values()), tuple(nodes))


def _whole(value: object, least: int, what: str) -> int:
    if type(value) is not int or value < least:
        raise ValueError(f"{what} must be a whole number >= {least}, not {value!r}")
    return value


def _at_rate(cable: Link, rate: object, where: str) -> Link | None:
    if rate is None:
        return None
    try:
        return replace(cable, rate=parse_bandwidth(rate))
    except UnitError as error:
        raise ValueError(f"{where}: {error}") from None
