"""A sheet of SVG with boxes, stacks, lines and text, written without a library so that its bytes are reproducible."""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from dessim.cluster.drawing.heat import Heat

INK = "#1f2933"
FAINT = "#52606d"
FONT = "DejaVu Sans, Verdana, Arial, sans-serif"
WIDE_EM = 0.62
"""Average width of a character of these fonts in ems, rounded up, so that text that fits by this measure does fit."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; `x` and `y` are those of its upper left corner."""

    x: float
    y: float
    width: float
    height: float

    @property
    def top(self) -> tuple[float, float]:
        """Middle of the upper edge."""
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> tuple[float, float]:
        """Middle of the lower edge."""
        return self.x + self.width / 2, self.y + self.height

    @property
    def centre(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2


@dataclass(slots=True)
class Sheet:
    """SVG elements in drawing order. Lines have the colours and widths of `heat`.

    They lie below all boxes, even those drawn earlier.
    """

    width: float
    heat: Heat = field(default_factory=Heat)
    lines: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)

    def box(self, box: Box, label: str, fill: str, *, size: float = 12, dashed: bool = False) -> Box:
        """Draw a filled rectangle with its label in the middle, one row for each line of the label; return the box."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.shapes.append(
            f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="5" '
            f'fill="{fill}" stroke="{INK}" stroke-width="1"{dash}/>'
        )
        rows = label.split("\n") if label else []
        longest = max((len(row) for row in rows), default=1)
        size = min(size, (box.width - 6) / (WIDE_EM * longest))
        first = box.y + box.height / 2 - (len(rows) - 1) * size * 0.62 + size * 0.36
        for i, row in enumerate(rows):
            self.text(box.x + box.width / 2, first + i * size * 1.24, row, size=size, anchor="middle")
        return box

    def stack(self, box: Box, label: str, fill: str, *, size: float = 12) -> Box:
        """Draw three rectangles behind each other, which stand for several identical things; return the front one."""
        for shift in (10, 5):
            self.shapes.append(
                f'<rect x="{box.x + shift:g}" y="{box.y - shift:g}" width="{box.width:g}" height="{box.height:g}" '
                f'rx="5" fill="{fill}" stroke="{FAINT}" stroke-width="1"/>'
            )
        return self.box(box, label, fill, size=size)

    def line(self, a: tuple[float, float], b: tuple[float, float], kind: str, *, width: float = 1.4) -> None:
        """Draw a straight link of class `kind` from `a` to `b`."""
        colour = self.heat.colour(kind)
        self.lines.append(
            f'<line x1="{a[0]:g}" y1="{a[1]:g}" x2="{b[0]:g}" y2="{b[1]:g}" stroke="{colour}" '
            f'stroke-width="{width * self.heat.width(kind):g}"/>'
        )

    def curve(self, a: tuple[float, float], b: tuple[float, float], bend: float, kind: str) -> None:
        """Draw a link that deviates from the straight line by `bend` of its length, to the left of its direction."""
        x = (a[0] + b[0]) / 2 + 2 * bend * (b[1] - a[1])
        y = (a[1] + b[1]) / 2 - 2 * bend * (b[0] - a[0])
        self.lines.append(
            f'<path d="M{a[0]:g} {a[1]:g}Q{x:g} {y:g} {b[0]:g} {b[1]:g}" fill="none" '
            f'stroke="{self.heat.colour(kind)}" stroke-width="{self.heat.width(kind):g}"/>'
        )

    def frame(self, box: Box) -> None:
        """Draw an empty white rectangle below all boxes and below the lines that follow."""
        self.lines.append(
            f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="5" '
            f'fill="#ffffff" stroke="{FAINT}" stroke-width="1"/>'
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 12,
        anchor: str = "start",
        bold: bool = False,
        ink: str = INK,
    ) -> None:
        """Draw one row of text; (x, y) is the point of its base line given by `anchor`."""
        weight = ' font-weight="bold"' if bold else ""
        self.shapes.append(
            f'<text x="{x:g}" y="{y:.4g}" font-size="{size:.4g}" text-anchor="{anchor}" fill="{ink}"{weight}>'
            f"{escape(text)}</text>"
        )

    def finish(self, height: float, title: str) -> str:
        """Return the complete SVG document."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {height:g}" width="{self.width:g}" '
            f'height="{height:g}" font-family="{FONT}" role="img" aria-label="{escape(title, {chr(34): "&quot;"})}">'
        )
        paper = f'<rect width="{self.width:g}" height="{height:g}" fill="#ffffff"/>'
        return "\n".join([head, paper, *self.lines, *self.shapes, "</svg>"]) + "\n"
