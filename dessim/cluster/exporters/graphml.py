"""Switches and cables as GraphML, as `[fabric] graphml` reads them and drawing programs open them.

A vertex is a switch with the number of its `nodes`; an edge has its `cables` and their `rate`, which is left out where
it is the usual one of a `graph`. Where some links are overridden, all edges state the payload rate of their link.
"""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

import numpy as np

from dessim.cluster.exporters.cables import cables, switches
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


def graphml_plan(cluster: Cluster) -> Plan:
    """The switches of a cluster with their servers and cables.

    Raises UsageError where the NICs of a server are on several switches, because a vertex counts whole servers.
    """
    home = cluster.switch_of_nic()
    wiring = cluster.wiring
    first = home[wiring.first_nic()]
    if (home != first[wiring.node_of_nic()]).any():
        raise UsageError(f"{cluster.name}: the NICs of a server are on several switches; GraphML counts whole servers")
    name = cluster.links.vertex_name
    edges = [
        Edge(name(cable.a), name(cable.b), cable.count, Link("", cable.rate, 1.0, 0.0, "")) for cable in cables(cluster)
    ]
    vertices = switches(cluster)
    nodes = np.bincount(first, minlength=cluster.links.n_vertices)[vertices]
    return Plan(tuple(map(name, vertices)), tuple(edges), tuple(nodes.tolist()))


def graphml_losses(cluster: Cluster) -> list[str]:
    """Sentences on what a GraphML file of switches does not say."""
    lost = [
        "servers: only their number on each switch is kept",
        "latencies and efficiencies of cables",
        f"routing of the {cluster.kind} fabric: readers of GraphML choose routes, dessim those with the fewest hops",
    ]
    if cluster.kind == "graph" and cluster.built is None:
        lost.append("rate of the usual cable: edges of that cable state none")
    return lost
