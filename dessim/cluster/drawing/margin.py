"""The left margin of a drawing: what the links beside it are, and how busy they were."""

from __future__ import annotations

from dataclasses import dataclass

from dessim.cluster.drawing.svg import FAINT, Box, Sheet
from dessim.cluster.links import Links
from dessim.cluster.parts import Link
from dessim.units import format_bandwidth, format_time

MARGIN = 20.0
"""Empty border of the sheet."""
LEFT = 290.0
"""Where the margin ends and the drawing begins."""


@dataclass(frozen=True, slots=True)
class LinkRow:
    """A row of the margin, about the links of class `kind`, each of which is `cables` parallel cables of part `link`.

    `n_per_direction` is their number in one direction, if `kind` holds both. `also` lists further classes that the row
    covers; it shows the utilisation of the busiest.
    """

    title: str
    link: Link
    kind: str
    cables: int = 1
    n_per_direction: int | None = None
    also: tuple[str, ...] = ()


def draw_link_row(sheet: Sheet, y: float, links: Links, row: LinkRow) -> None:
    """Draw a row of the margin at height `y`, with the utilisation of its links if the sheet shows a run."""
    members = links.of_kind(row.kind)
    # Datasheets give the rate of network links in bits, that of links inside a server in bytes.
    in_server = row.kind.startswith(("pcie", "nvlink"))
    wire_rate = format_bandwidth(row.link.rate) if in_server else f"{row.link.rate * 8 / 1e9:.6g} Gb/s"
    times = f"{row.cables} × " if row.cables > 1 else ""
    slowest = format_bandwidth(float(links.capacity[members].min()))
    fastest = format_bandwidth(float(links.capacity[members].max()))
    payload = slowest if slowest == fastest else f"{_without_common_unit(slowest, fastest)}–{fastest}"
    latency = format_time(float(links.latency[members[0]]))
    sheet.text(MARGIN, y, row.title, size=12, bold=True)
    sheet.text(MARGIN, y + 17, f"{times}{wire_rate}, payload {payload}", ink=FAINT)
    sheet.text(MARGIN, y + 34, f"{latency}; {row.n_per_direction or len(members):,} per direction", ink=FAINT)
    if sheet.heat.shares is not None:
        busiest = max((row.kind, *row.also), key=sheet.heat.share)
        sheet.box(Box(LEFT - 80, y + 25, 20, 9), "", sheet.heat.colour(busiest))
        sheet.text(LEFT - 8, y + 34, sheet.heat.percent(busiest), anchor="end", bold=True)


def _without_common_unit(text: str, following: str) -> str:
    """A quantity without its unit, if the one that follows has the same unit."""
    number, _, unit = text.partition(" ")
    return number if following.endswith(f" {unit}") else text
