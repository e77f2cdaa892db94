"""The part of a drawing that shows how routers are joined: a grid, groups, or a graph, as far as one can follow it.

Of a grid one plane is drawn, of groups the first one and the ring of all; more than fits is folded with its count.
"""

from __future__ import annotations

import math
from itertools import pairwise

import networkx as nx

from dessim.cluster.drawing.cables import cable_rows, kinds_along
from dessim.cluster.drawing.server import LEFT
from dessim.cluster.drawing.svg import FAINT, Box, Sheet
from dessim.cluster.fabrics.dragonfly import Dragonfly
from dessim.cluster.fabrics.dragonfly_plus import DragonflyPlus
from dessim.cluster.fabrics.graph import Graph
from dessim.cluster.fabrics.hyperx import HyperX
from dessim.cluster.fabrics.torus import AXES, Torus
from dessim.cluster.graph import Cluster
from dessim.cluster.routing.routes import Fabric

RIGHT, HEIGHT = 1160.0, 330.0
ROUTER, GROUP, SPINE = "#d5ecd4", "#dcd9f3", "#cfe0f5"
SHOWN_COLUMNS, SHOWN_ROWS, SHOWN_AROUND, SHOWN_SWITCHES = 10, 8, 24, 60

Mapped = Torus | HyperX | Dragonfly | DragonflyPlus | Graph
Point = tuple[float, float]


def has_map(fabric: Fabric) -> bool:
    """Whether it is drawn as a map instead of tiers."""
    return isinstance(fabric, Mapped)


def draw_map(sheet: Sheet, cluster: Cluster, y: float) -> float:
    """The map from `y` down, with what its cables are in the margin; where to go on below."""
    fabric, bottom = cluster.fabric, y + HEIGHT
    if isinstance(fabric, Torus | HyperX):
        note, bottom = _grid(sheet, fabric, y)
    elif isinstance(fabric, Dragonfly | DragonflyPlus):
        note = _groups(sheet, fabric, y)
    else:
        assert isinstance(fabric, Graph)
        note = _graph(sheet, fabric, y)
    sheet.text(LEFT, bottom - 6, note, ink=FAINT)
    return max(bottom + 24, cable_rows(sheet, cluster, y))


def _grid(sheet: Sheet, fabric: Torus | HyperX, y: float) -> tuple[str, float]:
    """One plane of it; returns what is to be said of it, and where it ends."""
    size = fabric.grid.size if isinstance(fabric, Torus) else fabric.shape.size
    rows, columns = (1, *size)[-2:]
    planes = math.prod(size) // (rows * columns)
    across, down = _shown(columns, SHOWN_COLUMNS), _shown(rows, SHOWN_ROWS)
    torus = isinstance(fabric, Torus)
    step_x, step_y = min(74.0, 720 / len(across)), min(42.0, (240 if torus else 220) / len(down))
    x0, y0 = LEFT + 60, y + (34 if torus else 54)
    if planes > 1:
        for shift in (20.0, 10.0):
            frame = Box(x0 - 34 + shift, y0 - 24 - shift, step_x * len(across) + 24, step_y * len(down) + 20)
            sheet.frame(frame)
        sheet.frame(Box(x0 - 34, y0 - 24, step_x * len(across) + 24, step_y * len(down) + 20))
    boxes = {
        (i, j): Box(x0 + c * step_x, y0 + r * step_y, step_x * 0.62, min(22.0, step_y * 0.6))
        for r, i in enumerate(down)
        for c, j in enumerate(across)
    }
    kinds = kinds_along(fabric)
    _lines_of_grid(sheet, boxes, [(i, across) for i in down], columns, kinds[-1], torus, along_rows=True)
    _lines_of_grid(sheet, boxes, [(j, down) for j in across], rows, kinds[-2:][0], torus, along_rows=False)
    for (i, j), box in boxes.items():
        folded = i < 0 or j < 0
        sheet.box(box, "…" if folded else f"{i * columns + j}", "#ffffff" if folded else ROUTER, size=10, dashed=folded)
    names = [AXES[d] for d in range(len(size))][-2:]
    shape = " × ".join(str(n) for n in size)
    note = f"{shape}, 1 of {planes:,} planes" if planes > 1 else shape
    note += f"; rows along {names[-1]}; "
    note += (
        "what leaves at one side comes in at the other"
        if torus
        else "all routers of a line are joined, drawn for router0"
    )
    if torus and sheet.heat.shares is not None:  # one row of the margin is for all axes
        note += "; mean use: " + ", ".join(f"{kind[0]} {sheet.heat.percent(kind)}" for kind in kinds)
    return note, y0 + step_y * len(down) + 24


def _shown(n: int, most: int) -> list[int]:
    """Indices that are drawn; -1 stands for those that are folded."""
    return list(range(n)) if n <= most else [*range(most - 2), -1, n - 1]


def _lines_of_grid(
    sheet: Sheet,
    boxes: dict[tuple[int, int], Box],
    lines: list[tuple[int, list[int]]],
    n: int,
    kind: str,
    torus: bool,
    *,
    along_rows: bool,
) -> None:
    """The lines of a grid: of a torus with what leads out of the picture, of a HyperX the first with all its cables."""
    for at, places in lines:
        row = [boxes[(at, p) if along_rows else (p, at)] for p in places]
        for a, b in pairwise(row):
            sheet.line(_centre(a), _centre(b), kind, width=1)
        (ax, ay), (bx, by) = _centre(row[0]), _centre(row[-1])
        if torus and n > 2:
            out = (0.0, 20.0) if not along_rows else (30.0, 0.0)
            sheet.line((ax - out[0], ay - out[1]), (ax, ay), kind, width=1)
            sheet.line((bx, by), (bx + out[0], by + out[1]), kind, width=1)
        elif not torus and at == 0:
            starts = [box.top if along_rows else (box.x, box.y + box.height / 2) for box in row]
            for i, start in enumerate(starts):
                for k, end in enumerate(starts[i + 2 :], 2):
                    rises = (46.0 if along_rows else -40.0) * k / len(starts)
                    sheet.curve(start, end, rises / math.dist(start, end), kind)


def _groups(sheet: Sheet, fabric: Dragonfly | DragonflyPlus, y: float) -> str:
    links = fabric.shape.links
    centre, radius = (LEFT + 170.0, y + 158.0), 118.0
    if isinstance(fabric, Dragonfly):
        routers = _around(centre, radius, _shown(links.switches, SHOWN_AROUND))
        _mesh(sheet, [point for _, point in routers], "local")
        for i, point in routers:
            _dot(sheet, point, "…" if i < 0 else f"{i}", ROUTER)
        inside = f"group 0: {links.switches} routers"
    else:
        spines = _in_row(centre[0], centre[1] - 70, _shown(links.switches, 9))
        leaves = _in_row(centre[0], centre[1] + 70, _shown(fabric.shape.leaves, 9))
        for _, spine in spines:
            for _, leaf in leaves:
                sheet.line(spine, leaf, "leaf_up", width=1)
        for row, fill in ((spines, SPINE), (leaves, ROUTER)):
            for i, point in row:
                _dot(sheet, point, "…" if i < 0 else f"{i}", fill)
        sheet.text(centre[0], centre[1] - 96, f"{links.switches} spines", anchor="middle", ink=FAINT)
        sheet.text(centre[0], centre[1] + 104, f"{fabric.shape.leaves} leaves", anchor="middle", ink=FAINT)
        inside = "group 0"
    sheet.text(centre[0], y + 12, inside, size=13, bold=True, anchor="middle")
    ring = (RIGHT - 260.0, y + 158.0)
    groups = _around(ring, radius, _shown(links.groups, SHOWN_AROUND))
    _mesh(sheet, [point for _, point in groups], "global")
    for i, point in groups:
        _dot(sheet, point, "…" if i < 0 else f"g{i}", GROUP)
    sheet.text(ring[0], y + 12, f"{links.groups:,} groups", size=13, bold=True, anchor="middle")
    plural = "s" * (links.copies > 1)
    dark = links.switches * links.per_switch - links.ports
    unused = f"; {dark} port{'s' * (dark > 1)} of each group unused" if dark else ""
    way = "by another group (Valiant)" if fabric.shape.valiant else "minimal"
    return f"{links.copies} link{plural} between each two groups{unused}; ways: {way}"


def _graph(sheet: Sheet, fabric: Graph, y: float) -> str:
    n = len(fabric.names)
    pairs = [(a, b) for a, b in zip(fabric.cables.tail.tolist(), fabric.cables.head.tolist(), strict=True) if a < b]
    cables = f"{int(fabric.wires.sum()) // 2:,} cables between {len(pairs):,} pairs of switches"
    rates = sorted({round(rate / 1e9, 3) for rate in (fabric.cables.capacity / fabric.wires).tolist()})
    payload = f"payload of one: {', '.join(f'{rate:g}' for rate in rates[:4])}{' …' if len(rates) > 4 else ''} GB/s"
    if sheet.heat.shares is not None:
        payload += f"; mean use {sheet.heat.percent('cable')}"
    if n > SHOWN_SWITCHES:
        sheet.stack(Box(LEFT + 300, y + 110, 220, 60), f"{n:,} switches", ROUTER, size=14)
        return f"{cables}; {payload}; too many to draw one by one"
    net: nx.Graph[int] = nx.Graph()
    net.add_nodes_from(range(n))
    net.add_edges_from(pairs)
    place = _layout(net)
    width, height = RIGHT - LEFT - 160, HEIGHT - 90
    at = {v: (LEFT + 80 + x * width, y + 30 + z * height) for v, (x, z) in place.items()}
    for a, b in pairs:
        sheet.line(at[a], at[b], "cable", width=1.2)
    hosts = set(fabric.home.tolist())
    for v, (px, py) in at.items():
        label = fabric.names[v] if len(fabric.names[v]) <= 14 else f"{fabric.names[v][:13]}…"
        box = Box(px - 38, py - 11, 76, 22)
        sheet.box(box, label, ROUTER if v in hosts else SPINE, size=10)
    return f"{cables}; {payload}; green: with nodes"


def _layout(net: nx.Graph[int]) -> dict[int, Point]:
    """Places in the unit square, the same for the same graph."""
    place = nx.spring_layout(net, seed=1, iterations=300)
    xs, ys = zip(*(place[v] for v in net), strict=True)
    wide, high = max(xs) - min(xs) or 1.0, max(ys) - min(ys) or 1.0
    return {v: ((float(place[v][0]) - min(xs)) / wide, (float(place[v][1]) - min(ys)) / high) for v in net}


def _around(centre: Point, radius: float, items: list[int]) -> list[tuple[int, Point]]:
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


def _centre(box: Box) -> Point:
    return box.x + box.width / 2, box.y + box.height / 2
