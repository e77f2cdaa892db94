"""One plane of a torus or a HyperX in a drawing: routers in rows and columns, and the lines that join them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from dessim.cluster.drawing.cables import kinds_along
from dessim.cluster.drawing.margin import LEFT
from dessim.cluster.drawing.svg import Box, Sheet
from dessim.cluster.fabrics.hyperx import HyperX
from dessim.cluster.fabrics.torus import AXES, Torus

ROUTER = "#d5ecd4"
FOLDED = "#ffffff"
SHOWN_COLUMNS = 10
SHOWN_ROWS = 8
_MAX_WIDTH = 720


def shown_indices(n: int, most: int) -> list[int]:
    """The indices below n that are drawn; -1 stands for all that are folded."""
    return list(range(n)) if n <= most else [*range(most - 2), -1, n - 1]


@dataclass(frozen=True, slots=True)
class _Plane:
    """Geometry of the plane: drawn row and column indices, upper left corner, and distance between routers."""

    down: list[int]
    across: list[int]
    x: float
    y: float
    step_x: float
    step_y: float

    @classmethod
    def of(cls, n_rows: int, n_columns: int, y: float, height: float) -> _Plane:
        down = shown_indices(n_rows, SHOWN_ROWS)
        across = shown_indices(n_columns, SHOWN_COLUMNS)
        step_x = min(74.0, _MAX_WIDTH / len(across))
        step_y = min(42.0, height / len(down))
        return cls(down, across, LEFT + 60, y, step_x, step_y)

    def frame(self, shift: float) -> Box:
        """The outline of the plane, moved by `shift` to the right and up."""
        width = self.step_x * len(self.across) + 24
        height = self.step_y * len(self.down) + 20
        return Box(self.x - 34 + shift, self.y - 24 - shift, width, height)

    def boxes(self) -> dict[tuple[int, int], Box]:
        """The box of each router, by row and column index."""
        width = self.step_x * 0.62
        height = min(22.0, self.step_y * 0.6)
        return {
            (i, j): Box(self.x + column * self.step_x, self.y + row * self.step_y, width, height)
            for row, i in enumerate(self.down)
            for column, j in enumerate(self.across)
        }


def draw_grid(sheet: Sheet, fabric: Torus | HyperX, y: float) -> tuple[str, float]:
    """Draw one plane from height `y` down; return a note about the grid, and where the drawing ends."""
    is_torus = isinstance(fabric, Torus)
    size = fabric.grid.size if isinstance(fabric, Torus) else fabric.shape.size
    n_rows, n_columns = (1, *size)[-2:]
    n_planes = math.prod(size) // (n_rows * n_columns)
    # The curves of a HyperX need more space above the plane.
    plane = _Plane.of(n_rows, n_columns, y + (34 if is_torus else 54), height=240 if is_torus else 220)
    if n_planes > 1:
        for shift in (20.0, 10.0, 0.0):
            sheet.frame(plane.frame(shift))
    boxes = plane.boxes()
    kinds = kinds_along(fabric)
    for i in plane.down:
        row = [boxes[i, j] for j in plane.across]
        _draw_line(sheet, fabric, row, n_columns, kinds[-1], first=i == 0, horizontal=True)
    for j in plane.across:
        column = [boxes[i, j] for i in plane.down]
        _draw_line(sheet, fabric, column, n_rows, kinds[-2:][0], first=j == 0, horizontal=False)
    for (i, j), box in boxes.items():
        folded = i < 0 or j < 0
        label = "…" if folded else f"{i * n_columns + j}"
        sheet.box(box, label, FOLDED if folded else ROUTER, size=10, dashed=folded)
    return _note(sheet, fabric, size, n_planes), plane.y + plane.step_y * len(plane.down) + 24


def _note(sheet: Sheet, fabric: Torus | HyperX, size: tuple[int, ...], n_planes: int) -> str:
    shape = " × ".join(str(n) for n in size)
    plane = f"{shape}, 1 of {n_planes:,} planes" if n_planes > 1 else shape
    is_torus = isinstance(fabric, Torus)
    lines = (
        "lines that leave on one side enter on the other"
        if is_torus
        else "all routers of a line are joined, drawn for router0"
    )
    note = f"{plane}; rows along {AXES[len(size) - 1]}; {lines}"
    if is_torus and sheet.heat.shares is not None:  # the margin has one row for all axes of a torus
        note += "; mean use: " + ", ".join(f"{kind[0]} {sheet.heat.percent(kind)}" for kind in kinds_along(fabric))
    return note


def _draw_line(
    sheet: Sheet, fabric: Torus | HyperX, boxes: list[Box], n: int, kind: str, *, first: bool, horizontal: bool
) -> None:
    """One row or column of n routers, drawn as `boxes`.

    In a torus, lines at both ends show that it is closed to a ring. In a HyperX, the `first` row and column show all
    cables, as curves; the others show those between neighbours.
    """
    for a, b in pairwise(boxes):
        sheet.line(a.centre, b.centre, kind, width=1)
    if isinstance(fabric, Torus):
        if n > 2:
            dx, dy = (30.0, 0.0) if horizontal else (0.0, 20.0)
            ax, ay = boxes[0].centre
            bx, by = boxes[-1].centre
            sheet.line((ax - dx, ay - dy), (ax, ay), kind, width=1)
            sheet.line((bx, by), (bx + dx, by + dy), kind, width=1)
    elif first:
        starts = [box.top if horizontal else (box.x, box.y + box.height / 2) for box in boxes]
        for i, start in enumerate(starts):
            for k, end in enumerate(starts[i + 2 :], 2):
                rise = (46.0 if horizontal else -40.0) * k / len(starts)
                sheet.curve(start, end, rise / math.dist(start, end), kind)
