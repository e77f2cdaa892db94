"""Switches and cables as GraphML, as `[fabric] graphml` reads them and drawing programs open them.

A vertex is a switch with the number of its `nodes`; an edge has its `cables`, and its `rate` where that is not the
usual one of the fabric.
"""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from dessim.cluster.fabrics.graph import Plan
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
