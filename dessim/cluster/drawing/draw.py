"""A drawing of a cluster that a person can read at 16 and at 65,536 GPUs.

Layers from core or spine to GPU, top to bottom; one node is drawn in full, with the leaves it hangs on; whatever is
alike is folded into a stack with its count. Rates and latencies of each layer of links stand in the left margin. With
the heat of a run, lines have the colour of how busy their class of links was. Left out: the cables one by one.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from dessim.cluster.check import describe
from dessim.cluster.drawing.groups import Groups, many
from dessim.cluster.drawing.heat import STEP_LABELS, STEPS, WIRE, Heat
from dessim.cluster.drawing.router_map import draw_map, has_map
from dessim.cluster.drawing.server import LEFT, MARGIN, NODE, PANEL, margin, one_node
from dessim.cluster.drawing.svg import FAINT, Box, Sheet
from dessim.cluster.fabrics.fat_tree import FatTree
from dessim.cluster.fabrics.leaf_spine import LeafSpine
from dessim.cluster.graph import Cluster
from dessim.cluster.parts import Switch
from dessim.units import format_bandwidth

WIDTH = 1180.0
CORE, SPINE, LEAF = "#dcd9f3", "#cfe0f5", "#d5ecd4"
SHOWN_SPINES, SHOWN_RAILS = 4, 8
SIDE, GAP = 130.0, 40.0


def draw(cluster: Cluster, heat: Mapping[str, float] | None = None) -> str:
    """The SVG document; the same cluster gives the same bytes.

    `heat` is the mean use of each link class over a run, 0 to 1; classes that are not in it carried nothing.
    """
    sheet = Sheet(WIDTH, Heat(heat))
    y = _title(sheet, cluster)
    if heat is not None:
        y = _legend(sheet, y)
    mapped = has_map(cluster.fabric)
    spines, y = ([], draw_map(sheet, cluster, y)) if mapped else _upper_tiers(sheet, cluster, y)
    groups = Groups.of(cluster)
    leaves = _leaves(sheet, groups, y, repeated=mapped and groups.leaf_word != "leaf")
    others = _other_groups(sheet, groups, y)
    for i, (spine, elsewhere) in enumerate(spines):
        for leaf in leaves[i : i + 1] if groups.apart else leaves if not elsewhere else ():
            sheet.line(spine.bottom, leaf.top, "leaf_up", width=1)
        if others:
            sheet.line(spine.bottom, others[0].top, "leaf_up", width=1)
    margin(sheet, y + 65, f"NIC – {groups.leaf_word}", cluster.node.nic, cluster.links, "nic_up")
    y += 150
    bottom = _nodes(sheet, cluster, groups, leaves, others, y)
    return sheet.finish(bottom + MARGIN, f"Cluster {cluster.name}")


def _title(sheet: Sheet, cluster: Cluster) -> float:
    facts = describe(cluster)
    sheet.text(MARGIN, 38, cluster.name, size=22, bold=True)
    y = 60.0
    for row in textwrap.wrap(cluster.description, 130)[:3]:
        sheet.text(MARGIN, y, row, size=13, ink=FAINT)
        y += 18
    per_node = " + ".join(
        f"{kind['nodes']:,} node{'s' * (kind['nodes'] > 1)} × {kind['gpus_per_node']} {kind['gpu']}"
        for kind in facts["node_kinds"]
    )
    known = facts["bisection_GBps"] is not None
    bisection = format_bandwidth(facts["bisection_GBps"] * 1e9) if known else "not worked out"
    sheet.text(
        MARGIN,
        y + 2,
        f"{cluster.n_gpus:,} GPUs = {per_node}   ·   {cluster.kind}, {cluster.routing.policy} routing   ·   "
        f"oversubscription {facts['oversubscription']:.3g}   ·   bisection {bisection}",
        size=13,
    )
    return y + 30


def _legend(sheet: Sheet, y: float) -> float:
    """What the colours of lines say; returns where to go on."""
    x = LEFT + 380.0
    text = "mean use of a link class over the run, the busier way:"
    sheet.text(x - 12, y + 10, text, anchor="end", ink=FAINT)
    for colour, label in zip((WIRE, *STEPS), ("unused", *STEP_LABELS), strict=True):
        sheet.box(Box(x, y + 1, 20, 9), "", colour)
        sheet.text(x + 25, y + 10, label, size=11, ink=FAINT)
        x += 83
    return y + 26


def _upper_tiers(sheet: Sheet, cluster: Cluster, y: float) -> tuple[list[tuple[Box, bool]], float]:
    """Spines, and cores above them; returns each spine with whether it serves other leaves only, and where to go on."""
    fabric, links = cluster.fabric, cluster.links
    if isinstance(fabric, LeafSpine) and fabric.uplink and fabric.leaves > fabric.parts:
        n = fabric.spines * fabric.parts
        _title_of_row(sheet, f"{n:,} spine{'s' * (n > 1)}", fabric.switch, y + 10)
        if fabric.parts > 1:
            each = f"{fabric.spines} spine{'s' * (fabric.spines > 1)}\nof rail"
            spines = _over_leaves(sheet, [f"{each} {i}" for i in range(fabric.parts)], SPINE, y + 10)
        else:
            spines = _row(sheet, "spine", fabric.spines, fabric.spines, SPINE, "", y + 10)
        margin(sheet, y + 78, "leaf – spine", fabric.uplink, links, "leaf_up", fabric.links_per_spine)
        return [(spine, False) for spine in spines], y + 150
    if not isinstance(fabric, FatTree) or fabric.leaves == 1:
        return [], y
    tree, pods = fabric.tree, fabric.pods
    total, planes = pods * tree.spines, []
    if pods > 1:
        _title_of_row(sheet, f"{tree.spines * tree.cores:,} cores", tree.switch, y + 10)
        each = f"\n{tree.cores:,} core{'s' * (tree.cores > 1)}"
        planes = _row(sheet, "plane", tree.spines, tree.spines, CORE, each, y + 10, beside=True)
        margin(sheet, y + 78, "spine – core", tree.core_uplink, links, "spine_up", tree.links_per_core)
        y += 150
    _title_of_row(sheet, f"{total:,} spine{'s' * (total > 1)}", tree.switch, y + 10)
    spines = _row(
        sheet, "spine", tree.spines, total, SPINE, "", y + 10, f"\nof {pods - 1:,} more pod{'s' * (pods > 2)}"
    )
    margin(sheet, y + 78, "leaf – spine", tree.uplink, links, "leaf_up", tree.links_per_spine)
    for plane, spine in zip(planes, spines, strict=False):
        sheet.line(plane.bottom, spine.top, "spine_up", width=1)
        sheet.line(plane.bottom, spines[-1].top, "spine_up", width=1)
    return [(spine, pods > 1 and spine is spines[-1]) for spine in spines], y + 150


def _title_of_row(sheet: Sheet, text: str, switch: Switch | None, y: float) -> None:
    sheet.text(MARGIN, y + 16, text, size=14, bold=True)
    if switch:
        sheet.text(MARGIN, y + 34, f"{switch.name}, {switch.ports} ports", ink=FAINT)


def _row(
    sheet: Sheet,
    kind: str,
    first: int,
    total: int,
    fill: str,
    below: str,
    y: float,
    where: str = "",
    *,
    beside: bool = False,
) -> list[Box]:
    """The first few of `first` switches and a stack for the rest; one more stack for those up to `total`, at `where`.

    `beside` leaves that last place empty.
    """
    shown = first if first <= SHOWN_SPINES + 1 else SHOWN_SPINES
    folded, others = first - shown, total - first
    width, step = 100.0, 135.0
    count = shown + bool(folded) + bool(others or beside)
    x = LEFT + (WIDTH - LEFT - MARGIN - (count - 1) * step - width) / 2
    boxes = [sheet.box(Box(x + i * step, y, width, 36), f"{kind}{i}{below}", fill) for i in range(shown)]
    if folded:
        boxes.append(sheet.stack(Box(x + shown * step, y, width, 36), f"{folded:,} more", fill))
    if others:
        draw_one = sheet.stack if others > 1 else sheet.box
        boxes.append(draw_one(Box(x + (count - 1) * step, y, width, 36), f"{others:,} more{where}", fill))
    return boxes


def _leaves(sheet: Sheet, groups: Groups, y: float, *, repeated: bool) -> list[Box]:
    """The leaves of the drawn group; `repeated` where they are counted above already."""
    total = groups.leaves + groups.other_leaves
    plural = many(groups.leaf_word) if total > 1 else groups.leaf_word
    title = "one of them" if repeated else f"{total:,} {plural}"
    sheet.text(MARGIN, y + 16, title, size=14, bold=True)
    if groups.apart:
        sheet.text(MARGIN, y + 34, f"{groups.leaves} rails, joined by NVLink alone", ink=FAINT)
    elif groups.word == "pod":
        pods = f"{groups.others + 1:,} pod{'s' * (groups.others > 0)}"
        sheet.text(MARGIN, y + 34, f"{pods} of {groups.leaves} rail leaves", ink=FAINT)
    if groups.leaves == 1:
        name = groups.names[0] if groups.names else f"{groups.leaf_word}0"
        return [sheet.box(Box(LEFT, y, PANEL + GAP + SIDE, 36), name, LEAF)]
    return _over_leaves(sheet, list(groups.names), LEAF, y)


def _over_leaves(sheet: Sheet, names: list[str], fill: str, y: float) -> list[Box]:
    """A box for each rail, those that do not fit as a stack."""
    shown = len(names) if len(names) <= SHOWN_RAILS else SHOWN_RAILS - 1
    step = (PANEL + GAP + SIDE) / (shown + (shown < len(names)))
    boxes = [sheet.box(Box(LEFT + i * step, y, step - 12, 36), names[i], fill, size=11) for i in range(shown)]
    if shown < len(names):
        more = f"{len(names) - shown}\nmore"
        boxes.append(sheet.stack(Box(LEFT + shown * step, y, step - 18, 36), more, fill, size=11))
    return boxes


def _other_groups(sheet: Sheet, groups: Groups, y: float) -> list[Box]:
    if not groups.others and not groups.other_leaves:
        return []
    x = LEFT + PANEL + SIDE + 2 * GAP
    width = WIDTH - MARGIN - 14 - x
    of = ""
    if groups.word == "pod":
        of = f"\nof {groups.others:,} more pod{'s' * (groups.others > 1)}"
    elif groups.others and groups.others != groups.other_leaves:
        of = f"\nin {groups.others + 1:,} pods"
    word = many(groups.leaf_word) if groups.other_leaves > 1 else groups.leaf_word
    leaves = f"{groups.other_leaves:,} more {word}"
    draw_one = sheet.stack if groups.other_leaves > 1 else sheet.box
    return [draw_one(Box(x, y, width, 36), leaves + of, LEAF)]


def _nodes(sheet: Sheet, cluster: Cluster, groups: Groups, leaves: list[Box], others: list[Box], y: float) -> float:
    sheet.text(MARGIN, y + 16, f"{cluster.n_nodes:,} node{'s' * (cluster.n_nodes > 1)}", size=14, bold=True)
    if cluster.node.trays > 1:
        sheet.text(MARGIN, y + 52, f"in {cluster.node.trays} trays", ink=FAINT)
    mixed = len(cluster.nodes) > 1
    for row, kind in enumerate(cluster.wiring.kinds):
        g, nics = kind.node.gpus, kind.node.nics
        who = "each" if not mixed else f"from node{kind.run.node}"
        sheet.text(
            MARGIN,
            y + 34 + 18 * row + 18 * (row > 0 and cluster.node.trays > 1),
            f"{g} GPU{'s' * (g > 1)} and {nics} NIC{'s' * (nics > 1)} {who}",
            ink=FAINT,
        )
    bottom = one_node(sheet, cluster, leaves, y, groups.of_nic)
    if groups.nodes > 1:
        more = Box(LEFT + PANEL + GAP, y + 10, SIDE - 14, 64)
        same = f"on the same\n{many(groups.leaf_word) if groups.leaves > 1 else groups.leaf_word}"
        fold = sheet.stack if groups.nodes > 2 else sheet.box
        fold(more, f"{groups.nodes - 1:,} more node{'s' * (groups.nodes > 2)}\n{same}", NODE)
        for leaf in leaves:
            below = more.top[0] if groups.leaves == 1 else leaf.bottom[0]
            sheet.line((below, leaf.bottom[1]), more.top, "nic_up", width=1)
    if others:
        box = others[0]
        fold = sheet.stack if groups.other_nodes > 1 else sheet.box
        where = f"these {many(groups.leaf_word)}" if groups.other_leaves > 1 else f"this {groups.leaf_word}"
        label = f"{groups.other_nodes:,} node{'s' * (groups.other_nodes > 1)}\non {where}"
        nodes = fold(Box(box.x, y + 10, box.width, 64), label, NODE)
        sheet.line(box.bottom, nodes.top, "nic_up", width=3)
    return bottom
