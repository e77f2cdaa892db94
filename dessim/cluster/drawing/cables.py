"""The margin beside a map of routers: how many there are, and one row for each kind of cable between them."""

from __future__ import annotations

from dessim.cluster.drawing.margin import MARGIN, LinkRow, draw_link_row
from dessim.cluster.drawing.svg import FAINT, Sheet
from dessim.cluster.fabrics.dragonfly import Dragonfly
from dessim.cluster.fabrics.dragonfly_plus import DragonflyPlus
from dessim.cluster.fabrics.hyperx import HyperX
from dessim.cluster.fabrics.torus import AXES, Torus
from dessim.cluster.graph import Cluster
from dessim.cluster.links import Links
from dessim.cluster.routing.routes import Fabric


def draw_cable_rows(sheet: Sheet, cluster: Cluster, y: float) -> float:
    """Draw the number of switches and the kinds of cables from height `y` down; return where the rows end."""
    switch = cluster.fabric.switch
    counts = {layer.kind: layer.count for layer in cluster.links.layers}
    for kind, plural in (("router", "routers"), ("spine", "spines"), ("switch", "switches")):
        if kind in counts:
            sheet.text(MARGIN, y + 16, f"{counts[kind]:,} {plural}", size=14, bold=True)
    if switch:
        sheet.text(MARGIN, y + 34, f"{switch.name}, {switch.ports} ports", ink=FAINT)
    y += 70
    for row in _cable_rows(cluster.fabric, cluster.links):
        draw_link_row(sheet, y, cluster.links, row)
        y += 64
    return y


def _cable_rows(fabric: Fabric, links: Links) -> list[LinkRow]:
    """One row for each kind of cable that the fabric has.

    A class of links between routers holds both directions, except `leaf_up`.
    """
    if isinstance(fabric, Torus):
        axes = ", ".join(AXES[: len(fabric.grid.size)])
        title = f"to each neighbour along {axes}"
        n = len(fabric.cables.tail) // 2
        along = kinds_along(fabric)
        return [LinkRow(title, fabric.grid.cable, along[0], fabric.grid.cables, n_per_direction=n, also=along)]

    def one_direction(kind: str) -> int:
        return len(links.of_kind(kind)) // 2

    if isinstance(fabric, HyperX):
        rows = []
        for axis, kind, cables in zip(AXES, kinds_along(fabric), fabric.shape.cables, strict=False):
            rows.append(LinkRow(f"in a line along {axis}", fabric.shape.cable, kind, cables, one_direction(kind)))
        return rows
    if isinstance(fabric, Dragonfly | DragonflyPlus):
        shape = fabric.shape
        if isinstance(fabric, Dragonfly):
            local = LinkRow("in a group", shape.local, "local", n_per_direction=one_direction("local"))
        else:
            local = LinkRow("leaf – spine", shape.local, "leaf_up")
        rows = [local, LinkRow("between groups", shape.cable, "global", n_per_direction=one_direction("global"))]
        return [row for row in rows if len(links.of_kind(row.kind))]  # groups of one router have no local links
    return []


def kinds_along(fabric: Torus | HyperX) -> tuple[str, ...]:
    """The class of links along each axis; for a torus that of the forward direction."""
    if isinstance(fabric, Torus):
        return tuple(f"{axis}_plus" for axis in AXES[: len(fabric.grid.size)])
    return tuple(f"{axis}_line" for axis in AXES[: len(fabric.shape.size)])
