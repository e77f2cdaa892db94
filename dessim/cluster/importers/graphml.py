"""Switches and cables from a GraphML file, as drawing programs and topology collections write them."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dessim.cluster.fabrics.graph import Edge, Plan
from dessim.cluster.importers.found import FoundFabric, Host, Port
from dessim.cluster.importers.read import parse_xml
from dessim.cluster.parts import Link
from dessim.errors import ClusterError, UnitError, is_printable, printable
from dessim.units import parse_bandwidth

if TYPE_CHECKING:
    import networkx as nx

MAX_NODES = 1 << 20
"""Servers of a fabric to recognise."""


def read_graphml(path: Path, text: str, cable: Link) -> Plan:
    """Read the switches and cables in the text of a GraphML file.

    Vertices are switches; their attribute `nodes` is the number of nodes attached to them, 0 unless given. An edge is
    one cable of part `cable`, which its attributes `cables` (a number) and `rate` ("400 Gb/s") change. Parallel edges
    add up. Raises ClusterError.
    """
    import networkx as nx  # here, because most commands do not need it

    try:
        parse_xml(path, text)  # networkx would expand entities
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on attributes without a type, whose values are refused below
            graph: nx.Graph[Any] = nx.parse_graphml(text, force_multigraph=True)
    except ClusterError as error:
        raise ClusterError(path, "", f"not GraphML: {error.problem}") from None
    except Exception as error:  # the XML reader raises many types for a file that is not GraphML
        raise ClusterError(path, "", f"not GraphML: {str(error) or type(error).__name__}") from None
    try:
        return _plan(graph, cable)
    except ValueError as error:
        raise ClusterError(path, "", str(error)) from None


def _plan(graph: nx.Graph[Any], cable: Link) -> Plan:
    """The switches and cables of a graph. Raises ValueError."""
    for name in graph:
        if not is_printable(name):
            raise ValueError(f"the name {printable(name)!r} has control characters")
    if graph.is_directed():
        raise ValueError('its edges are directed; write edgedefault="undirected"')
    nodes = [_whole_number(data.get("nodes", 0), 0, f"nodes of {name!r}") for name, data in graph.nodes(data=True)]
    edges: dict[tuple[str, str], Edge] = {}
    for a, b, data in graph.edges(data=True):
        ends = f"between {a!r} and {b!r}"
        count = _whole_number(data.get("cables", 1), 1, f"cables {ends}")
        edge = Edge(a, b, count, _at_rate(cable, data.get("rate"), ends))
        pair = (min(a, b), max(a, b))
        parallel = edges.get(pair)
        if parallel is not None and parallel.link != edge.link:
            raise ValueError(f"parallel edges {ends} differ in rate")
        edges[pair] = replace(parallel, cables=parallel.cables + count) if parallel else edge
    return Plan(tuple(graph), tuple(edges.values()), tuple(nodes))


def read_graphml_fabric(path: Path, text: str) -> FoundFabric:
    """Read the text of a GraphML file as a fabric to recognise. Raises ClusterError.

    Its servers have no names, and one port stands for all adapters of each.
    """
    plan = read_graphml(path, text, Link("cable", 1.0, 1.0, 0.0, "stands for cables without a rate"))
    problem = plan.problem() or ("" if sum(plan.nodes) else "no vertex has `nodes`, the number of its servers")
    if sum(plan.nodes) > MAX_NODES:
        problem = f"{sum(plan.nodes):,} servers are more than {MAX_NODES:,}"
    if problem:
        raise ClusterError(path, "", problem)
    hosts = [
        Host(f"{switch}/{number}", (Port("port", switch),))
        for switch, count in zip(plan.switches, plan.nodes, strict=True)
        for number in range(count)
    ]
    cables = {
        (min(edge.a, edge.b), max(edge.a, edge.b)): ((edge.link.rate if edge.link else None, edge.cables),)
        for edge in plan.edges
    }
    assumed = ("adapters of a server: all on one switch, as GraphML counts servers",)
    return FoundFabric(plan.switches, cables, tuple(hosts), assumed=assumed, logical=True)


def _whole_number(value: object, minimum: int, what: str) -> int:
    if type(value) is not int or value < minimum:
        raise ValueError(f"{what} must be a whole number >= {minimum}, not {value!r}")
    return value


def _at_rate(cable: Link, rate: object, where: str) -> Link | None:
    """The cable at another rate; None where no rate is given, which stands for the fabric's cable."""
    if rate is None:
        return None
    try:
        return replace(cable, rate=parse_bandwidth(rate))
    except UnitError as error:
        raise ValueError(f"{where}: {error}") from None
