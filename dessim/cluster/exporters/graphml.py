"""Switches and cables as GraphML, as `[fabric] graphml` reads them and drawing programs open them.

A vertex is a switch with the number of its `nodes`; an edge has its `cables`, and its `rate` where that is not the
usual one of the fabric.
"""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

import numpy as np

from dessim.cluster.fabrics.graph import Edge, Plan
from dessim.cluster.graph import Cluster
from dessim.cluster.parts import Link
from dessim.errors import UsageError
from dessim.units import format_bandwidth

_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns">
  <key id="nodes" for="node" attr.name="nodes" attr.type="int"/>
  <key id="cables" for="edge" attr.name="cables" attr.type="int"/>
  <key id="rate" for="edge" attr.name="rate" attr.type="string"/>
  <graph edgedefault="undirected">
"""


def graphml_text(plan: Plan) -> str:
    """Return the plan as GraphML."""
    lines = []
    for name, nodes in zip(plan.switches, plan.nodes, strict=True):
        lines.append(f'    <node id={quoteattr(name)}><data key="nodes">{nodes}</data></node>')
    for edge in plan.edges:
        rate = f'<data key="rate">{format_bandwidth(edge.link.rate, 12)}</data>' if edge.link else ""
        ends = f"source={quoteattr(edge.a)} target={quoteattr(edge.b)}"
        lines.append(f'    <edge {ends}><data key="cables">{edge.cables}</data>{rate}</edge>')
    return _HEAD + "\n".join([*lines, "  </graph>", "</graphml>", ""])


def export_graphml(cluster: Cluster) -> tuple[str, list[str]]:
    """Return the switches of a cluster as GraphML and sentences on what is lost.

    Raises UsageError where the NICs of a server are on several switches, which GraphML does not say, and where the two
    directions of a cable differ.
    """
    links, wiring = cluster.links, cluster.wiring
    home = links.dst[wiring.nic_up + np.arange(len(wiring.node_of_nic()))]
    first = home[wiring.first_nic()]
    if (home != first[wiring.node_of_nic()]).any():
        raise UsageError(f"{cluster.name}: the NICs of a server are on several switches; GraphML counts whole servers")
    between = range(wiring.first_server_link)
    switches = np.unique(np.concatenate([home, links.src[between.start : between.stop]])).tolist()
    capacity = {(int(links.src[link]), int(links.dst[link])): float(links.capacity[link]) for link in between}
    edges = []
    for (a, b), rate in capacity.items():
        if capacity.get((b, a)) != rate:
            ends = f"{links.vertex_name(a)} <-> {links.vertex_name(b)}"
            raise UsageError(f"{cluster.name}: the two directions of {ends} differ, and an edge has one rate")
        if a < b:
            edges.append(Edge(links.vertex_name(a), links.vertex_name(b), 1, Link("", rate, 1.0, 0.0, "")))
    nodes = np.bincount(first, minlength=links.n_vertices)
    plan = Plan(tuple(map(links.vertex_name, switches)), tuple(edges), tuple(nodes[switches].tolist()))
    lost = [
        "servers: only their number on each switch is kept",
        "latencies; number of parallel cables: an edge has the payload rate of all of them",
        f"routing: readers choose routes; dessim reads fewest hops, this fabric is {cluster.kind}",
    ]
    return graphml_text(plan), lost
