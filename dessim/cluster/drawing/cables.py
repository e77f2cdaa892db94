"""What joins the routers of a map, in the margin beside it: how many routers, and a row for each kind of cable."""

from __future__ import annotations

from dessim.cluster.drawing.server import MARGIN, margin
from dessim.cluster.drawing.svg import FAINT, Sheet
from dessim.cluster.fabrics.dragonfly import Dragonfly
from dessim.cluster.fabrics.dragonfly_plus import DragonflyPlus
from dessim.cluster.fabrics.hyperx import HyperX
from dessim.cluster.fabrics.torus import AXES, Torus
from dessim.cluster.graph import Cluster
from dessim.cluster.parts import Link
from dessim.cluster.routing.routes import Fabric


def cable_rows(sheet: Sheet, cluster: Cluster, y: float) -> float:
    """Counts and cables, in the margin; returns where it ends."""
    fabric, links = cluster.fabric, cluster.links
    counts = {layer.kind: layer.count for layer in links.layers}
    for kind, many in (("router", "routers"), ("spine", "spines"), ("switch", "switches")):
        if kind in counts:
            sheet.text(MARGIN, y + 16, f"{counts[kind]:,} {many}", size=14, bold=True)
    if fabric.switch:
        sheet.text(MARGIN, y + 34, f"{fabric.switch.name}, {fabric.switch.ports} ports", ink=FAINT)
    y += 70
    for title, link, kind, cables in _cables(fabric):
        members = len(links.of_kind(kind))
        if members:
            both = len(fabric.cables.tail) if isinstance(fabric, Torus) else members * (2 if kind == "leaf_up" else 1)
            also = kinds_along(fabric) if isinstance(fabric, Torus) else ()
            margin(sheet, y, title, link, links, kind, cables, both // 2, also)
            y += 64
    return y


def _cables(fabric: Fabric) -> list[tuple[str, Link, str, int]]:
    """Title, part, kind of link and cables in parallel of each kind of cable."""
    if isinstance(fabric, Torus):
        grid = fabric.grid
        axes = ", ".join(AXES[: len(grid.size)])
        return [(f"to each neighbour along {axes}", grid.cable, f"{AXES[0]}_plus", grid.cables)]
    if isinstance(fabric, HyperX):
        shape = fabric.shape
        return [(f"in a line along {AXES[d]}", shape.cable, f"{AXES[d]}_line", k) for d, k in enumerate(shape.cables)]
    if isinstance(fabric, Dragonfly):
        return [("in a group", fabric.shape.local, "local", 1), ("between groups", fabric.shape.cable, "global", 1)]
    if isinstance(fabric, DragonflyPlus):
        return [("leaf – spine", fabric.shape.local, "leaf_up", 1), ("between groups", fabric.shape.cable, "global", 1)]
    return []


def kinds_along(fabric: Torus | HyperX) -> tuple[str, ...]:
    """The kind of link along each axis; of a torus the one forwards."""
    word, size = ("plus", fabric.grid.size) if isinstance(fabric, Torus) else ("line", fabric.shape.size)
    return tuple(f"{axis}_{word}" for axis in AXES[: len(size)])
