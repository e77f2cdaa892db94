"""The tiers of switches in a drawing: cores, spines and leaves, with those that do not fit folded into stacks."""

from __future__ import annotations

from dataclasses import dataclass

from dessim.cluster.drawing.groups import Groups
from dessim.cluster.drawing.margin import LEFT, MARGIN, LinkRow, draw_link_row
from dessim.cluster.drawing.server import PANEL
from dessim.cluster.drawing.svg import FAINT, Box, Sheet
from dessim.cluster.fabrics.fat_tree import FatTree
from dessim.cluster.fabrics.leaf_spine import LeafSpine
from dessim.cluster.graph import Cluster
from dessim.cluster.links import Links
from dessim.cluster.parts import Switch
from dessim.units import counted

WIDTH = 1180.0
"""Width of the sheet."""
SIDE = 130.0
"""Width of the column beside the drawn server, for the other servers of its group."""
GAP = 40.0
"""Space between columns."""
CORE = "#dcd9f3"
SPINE = "#cfe0f5"
LEAF = "#d5ecd4"
SHOWN_SPINES = 4
SHOWN_RAILS = 8


@dataclass(frozen=True, slots=True)
class Spine:
    """A spine or a stack of them; `of_other_pods` says that it is not joined to the drawn leaves."""

    box: Box
    of_other_pods: bool = False


def draw_upper_tiers(sheet: Sheet, cluster: Cluster, y: float) -> tuple[list[Spine], float]:
    """Draw spines, and cores above them, from height `y` down; return the spines, and where to continue below."""
    fabric = cluster.fabric
    if isinstance(fabric, LeafSpine) and fabric.uplink and fabric.leaves > fabric.planes:
        return _draw_spines(sheet, fabric, cluster.links, y)
    if isinstance(fabric, FatTree) and fabric.leaves > 1:
        return _draw_spines_and_cores(sheet, fabric, cluster.links, y)
    return [], y


def _draw_spines(sheet: Sheet, fabric: LeafSpine, links: Links, y: float) -> tuple[list[Spine], float]:
    _title_of_row(sheet, counted(fabric.spines * fabric.planes, "spine"), fabric.switch, y + 10)
    if fabric.planes > 1:
        labels = [f"{counted(fabric.spines, 'spine')}\nof rail {i}" for i in range(fabric.planes)]
        boxes = _draw_rails(sheet, labels, SPINE, y + 10)
    else:
        boxes = _draw_row(sheet, _Row("spine", fabric.spines, SPINE), y + 10)
    assert fabric.uplink is not None
    draw_link_row(
        sheet, y + 78, links, LinkRow("leaf – spine", fabric.uplink, "leaf_up", cables=fabric.links_per_spine)
    )
    return [Spine(box) for box in boxes], y + 150


def _draw_spines_and_cores(sheet: Sheet, fabric: FatTree, links: Links, y: float) -> tuple[list[Spine], float]:
    tree = fabric.tree
    pods = fabric.pods
    planes: list[Box] = []
    if pods > 1:
        _title_of_row(sheet, f"{tree.spines * tree.cores:,} cores", tree.switch, y + 10)
        row = _Row("plane", tree.spines, CORE, second_line=counted(tree.cores, "core"), empty_place=True)
        planes = _draw_row(sheet, row, y + 10)
        cable = LinkRow("spine – core", tree.core_uplink, "spine_up", cables=tree.links_per_core)
        draw_link_row(sheet, y + 78, links, cable)
        y += 150
    _title_of_row(sheet, counted(pods * tree.spines, "spine"), tree.switch, y + 10)
    others = (pods - 1) * tree.spines
    row = _Row("spine", tree.spines, SPINE, others=others, others_line=f"of {_more_pods(pods - 1)}")
    boxes = _draw_row(sheet, row, y + 10)
    draw_link_row(sheet, y + 78, links, LinkRow("leaf – spine", tree.uplink, "leaf_up", cables=tree.links_per_spine))
    for plane, spine in zip(planes, boxes, strict=False):
        sheet.line(plane.bottom, spine.top, "spine_up", width=1)
        sheet.line(plane.bottom, boxes[-1].top, "spine_up", width=1)
    return [Spine(box, of_other_pods=pods > 1 and box is boxes[-1]) for box in boxes], y + 150


def _more_pods(n: int) -> str:
    return f"{n:,} more {'pods' if n > 1 else 'pod'}"


def _title_of_row(sheet: Sheet, text: str, switch: Switch | None, y: float) -> None:
    sheet.text(MARGIN, y + 16, text, size=14, bold=True)
    if switch:
        sheet.text(MARGIN, y + 34, f"{switch.name}, {switch.ports} ports", ink=FAINT)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of `count` switches called `kind`, maybe with a second line in each label.

    `others` more switches, described by `others_line`, get a box at the end; `empty_place` leaves that place empty.
    """

    kind: str
    count: int
    fill: str
    second_line: str = ""
    others: int = 0
    others_line: str = ""
    empty_place: bool = False


def _draw_row(sheet: Sheet, row: _Row, y: float) -> list[Box]:
    """The first switches of the row, a stack for those that do not fit, and one for the others."""
    shown = row.count if row.count <= SHOWN_SPINES + 1 else SHOWN_SPINES
    folded = row.count - shown
    places = shown + bool(folded) + bool(row.others or row.empty_place)
    width = 100.0
    step = 135.0
    x = LEFT + (WIDTH - LEFT - MARGIN - (places - 1) * step - width) / 2
    second_line = f"\n{row.second_line}" if row.second_line else ""
    boxes = [sheet.box(Box(x + i * step, y, width, 36), f"{row.kind}{i}{second_line}", row.fill) for i in range(shown)]
    if folded:
        boxes.append(sheet.stack(Box(x + shown * step, y, width, 36), f"{folded:,} more", row.fill))
    if row.others:
        draw_others = sheet.stack if row.others > 1 else sheet.box
        label = f"{row.others:,} more\n{row.others_line}"
        boxes.append(draw_others(Box(x + (places - 1) * step, y, width, 36), label, row.fill))
    return boxes


def draw_leaves(sheet: Sheet, groups: Groups, y: float, *, already_counted: bool) -> list[Box]:
    """Draw the leaves of the drawn group; `already_counted` says that the sheet shows their number elsewhere."""
    title = "one of them" if already_counted else counted(groups.leaves + groups.other_leaves, groups.leaf_word)
    sheet.text(MARGIN, y + 16, title, size=14, bold=True)
    if groups.separate:
        sheet.text(MARGIN, y + 34, f"{groups.leaves} rails, joined only by NVLink", ink=FAINT)
    elif groups.word == "pod":
        sheet.text(MARGIN, y + 34, f"{counted(groups.others + 1, 'pod')} of {groups.leaves} rail leaves", ink=FAINT)
    if groups.leaves == 1:
        name = groups.names[0] if groups.names else f"{groups.leaf_word}0"
        return [sheet.box(Box(LEFT, y, PANEL + GAP + SIDE, 36), name, LEAF)]
    return _draw_rails(sheet, list(groups.names), LEAF, y)


def _draw_rails(sheet: Sheet, labels: list[str], fill: str, y: float) -> list[Box]:
    """One box for each rail, and a stack for those that do not fit."""
    shown = len(labels) if len(labels) <= SHOWN_RAILS else SHOWN_RAILS - 1
    step = (PANEL + GAP + SIDE) / (shown + (shown < len(labels)))
    boxes = [sheet.box(Box(LEFT + i * step, y, step - 12, 36), labels[i], fill, size=11) for i in range(shown)]
    if shown < len(labels):
        label = f"{len(labels) - shown}\nmore"
        boxes.append(sheet.stack(Box(LEFT + shown * step, y, step - 18, 36), label, fill, size=11))
    return boxes


def draw_other_groups(sheet: Sheet, groups: Groups, y: float) -> Box | None:
    """Draw one box for the leaves of all groups but the drawn one; None if there are none."""
    if not groups.others and not groups.other_leaves:
        return None
    x = LEFT + PANEL + SIDE + 2 * GAP
    box = Box(x, y, WIDTH - MARGIN - 14 - x, 36)
    second_line = ""
    if groups.word == "pod":
        second_line = f"\nof {_more_pods(groups.others)}"
    elif groups.others and groups.others != groups.other_leaves:
        second_line = f"\nin {groups.others + 1:,} pods"
    n, _, noun = counted(groups.other_leaves, groups.leaf_word).partition(" ")
    draw_box = sheet.stack if groups.other_leaves > 1 else sheet.box
    return draw_box(box, f"{n} more {noun}{second_line}", LEAF)
