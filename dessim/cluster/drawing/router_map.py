"""The part of a drawing that shows how routers are joined: a grid, groups, or an arbitrary graph.

A grid is drawn as one plane. For groups, the first one is drawn with its routers, and a ring shows all of them.
Elements that do not fit are folded into one with their count.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dessim.cluster.drawing.cables import draw_cable_rows
from dessim.cluster.drawing.grid_map import draw_grid, shown_indices
from dessim.cluster.drawing.margin import LEFT
from dessim.cluster.drawing.svg import FAINT, Box, Sheet
from dessim.cluster.fabrics.dragonfly import Dragonfly
from dessim.cluster.fabrics.dragonfly_plus import DragonflyPlus
from dessim.cluster.fabrics.graph import Graph
from dessim.cluster.fabrics.hyperx import HyperX
from dessim.cluster.fabrics.torus import Torus
from dessim.cluster.graph import Cluster
from dessim.cluster.routing.routes import Fabric

if TYPE_CHECKING:
    import networkx as nx

RIGHT = 1160.0
HEIGHT = 330.0
ROUTER = "#d5ecd4"
GROUP = "#dcd9f3"
SPINE = "#cfe0f5"
SHOWN_AROUND = 24
SHOWN_IN_ROW = 9
SHOWN_SWITCHES = 60
_RADIUS = 118.0
_MAX_LABEL = 14
"""Characters of a switch's name that fit into its box."""

Mapped = Torus | HyperX | Dragonfly | DragonflyPlus | Graph
Point = tuple[float, float]


def has_map(fabric: Fabric) -> bool:
    """Return whether the fabric is drawn as a map instead of tiers."""
    return isinstance(fabric, Mapped)


def draw_map(sheet: Sheet, cluster: Cluster, y: float) -> float:
    """Draw the map from height `y` down, and its cables in the margin; return where to continue below."""
    fabric = cluster.fabric
    bottom = y + HEIGHT
    if isinstance(fabric, Torus | HyperX):
        note, bottom = draw_grid(sheet, fabric, y)
    elif isinstance(fabric, Dragonfly | DragonflyPlus):
        note = _draw_groups(sheet, fabric, y)
    else:
        assert isinstance(fabric, Graph)
        note = _draw_graph(sheet, fabric, y)
    sheet.text(LEFT, bottom - 6, note, ink=FAINT)
    return max(bottom + 24, draw_cable_rows(sheet, cluster, y))


def _draw_groups(sheet: Sheet, fabric: Dragonfly | DragonflyPlus, y: float) -> str:
    """Group 0 and the ring of all groups; returns a note about them."""
    links = fabric.shape.links
    centre = (LEFT + 170.0, y + 158.0)
    if isinstance(fabric, Dragonfly):
        title = _draw_router_group(sheet, fabric, centre)
    else:
        title = _draw_leaf_spine_group(sheet, fabric, centre)
    sheet.text(centre[0], y + 12, title, size=13, bold=True, anchor="middle")
    ring = (RIGHT - 260.0, y + 158.0)
    groups = _around(ring, _RADIUS, shown_indices(links.groups, SHOWN_AROUND))
    _mesh(sheet, [point for _, point in groups], "global")
    for i, point in groups:
        _dot(sheet, point, "…" if i < 0 else f"g{i}", GROUP)
    sheet.text(ring[0], y + 12, f"{links.groups:,} groups", size=13, bold=True, anchor="middle")
    plural = "s" * (links.copies > 1)
    n_unused = links.switches * links.per_switch - links.ports
    unused = f"; {n_unused} port{'s' * (n_unused > 1)} of each group unused" if n_unused else ""
    routes = "through another group (Valiant)" if fabric.shape.valiant else "minimal"
    return f"{links.copies} link{plural} between any two groups{unused}; routes: {routes}"


def _draw_router_group(sheet: Sheet, fabric: Dragonfly, centre: Point) -> str:
    """The routers of a group on a circle, each joined to each; returns a title."""
    n = fabric.shape.links.switches
    routers = _around(centre, _RADIUS, shown_indices(n, SHOWN_AROUND))
    _mesh(sheet, [point for _, point in routers], "local")
    for i, point in routers:
        _dot(sheet, point, "…" if i < 0 else f"{i}", ROUTER)
    return f"group 0: {n} routers"


def _draw_leaf_spine_group(sheet: Sheet, fabric: DragonflyPlus, centre: Point) -> str:
    """The leaves and spines of a group in two rows; returns a title."""
    x, y = centre
    n_spines = fabric.shape.links.switches
    spines = _in_row(x, y - 70, shown_indices(n_spines, SHOWN_IN_ROW))
    leaves = _in_row(x, y + 70, shown_indices(fabric.shape.leaves, SHOWN_IN_ROW))
    for _, spine in spines:
        for _, leaf in leaves:
            sheet.line(spine, leaf, "leaf_up", width=1)
    for row, fill in ((spines, SPINE), (leaves, ROUTER)):
        for i, point in row:
            _dot(sheet, point, "…" if i < 0 else f"{i}", fill)
    sheet.text(x, y - 96, f"{n_spines} spines", anchor="middle", ink=FAINT)
    sheet.text(x, y + 104, f"{fabric.shape.leaves} leaves", anchor="middle", ink=FAINT)
    return "group 0"


def _draw_graph(sheet: Sheet, fabric: Graph, y: float) -> str:
    """All switches with the cables between them, if they fit; returns a note about the cables."""
    import networkx as nx  # here, because most commands do not need it

    n = len(fabric.names)
    ends = zip(fabric.cables.tail.tolist(), fabric.cables.head.tolist(), strict=True)
    pairs = [(a, b) for a, b in ends if a < b]
    note = _describe_cables(sheet, fabric, len(pairs))
    if n > SHOWN_SWITCHES:
        sheet.stack(Box(LEFT + 300, y + 110, 220, 60), f"{n:,} switches", ROUTER, size=14)
        return f"{note}; too many to draw one by one"
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(pairs)
    width = RIGHT - LEFT - 160
    height = HEIGHT - 90
    place = {v: (LEFT + 80 + px * width, y + 30 + py * height) for v, (px, py) in _layout(graph).items()}
    for a, b in pairs:
        sheet.line(place[a], place[b], "cable", width=1.2)
    with_nodes = set(fabric.home.tolist())
    for v, (px, py) in place.items():
        name = fabric.names[v]
        label = name if len(name) <= _MAX_LABEL else f"{name[: _MAX_LABEL - 1]}…"
        sheet.box(Box(px - 38, py - 11, 76, 22), label, ROUTER if v in with_nodes else SPINE, size=10)
    return f"{note}; green: with nodes"


def _describe_cables(sheet: Sheet, fabric: Graph, n_pairs: int) -> str:
    """Number and payload rates of the cables, with their utilisation if the sheet shows a run."""
    rates = sorted({round(rate / 1e9, 3) for rate in (fabric.cables.capacity / fabric.parallel).tolist()})
    listed = ", ".join(f"{rate:g}" for rate in rates[:4]) + (" …" if len(rates) > 4 else "")
    note = f"{int(fabric.parallel.sum()) // 2:,} cables between {n_pairs:,} pairs of switches"
    note += f"; payload of one: {listed} GB/s"
    if sheet.heat.shares is not None:
        note += f"; mean use {sheet.heat.percent('cable')}"
    return note


def _layout(graph: nx.Graph[int]) -> dict[int, Point]:
    """Places of the vertices in the unit square, deterministic for a given graph."""
    import networkx as nx

    place = nx.spring_layout(graph, seed=1, iterations=300)
    xs, ys = zip(*(place[v] for v in graph), strict=True)
    width = max(xs) - min(xs) or 1.0
    height = max(ys) - min(ys) or 1.0
    return {v: ((float(place[v][0]) - min(xs)) / width, (float(place[v][1]) - min(ys)) / height) for v in graph}


def _around(centre: Point, radius: float, items: list[int]) -> list[tuple[int, Point]]:
    """The items at equal distances on a circle, clockwise from the top."""
    step = 2 * math.pi / len(items)
    return [
        (item, (centre[0] + radius * math.sin(i * step), centre[1] - radius * math.cos(i * step)))
        for i, item in enumerate(items)
    ]


def _in_row(middle: float, y: float, items: list[int]) -> list[tuple[int, Point]]:
    return [(item, (middle + (i - (len(items) - 1) / 2) * 34, y)) for i, item in enumerate(items)]


def _mesh(sheet: Sheet, points: list[Point], kind: str) -> None:
    for i, a in enumerate(points):
        for b in points[i + 1 :]:
            sheet.line(a, b, kind, width=0.7)


def _dot(sheet: Sheet, at: Point, label: str, fill: str) -> None:
    sheet.box(Box(at[0] - 13, at[1] - 10, 26, 20), label, fill, size=10)
