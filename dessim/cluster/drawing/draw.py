"""A drawing of a cluster that is readable at 16 and at 65,536 GPUs.

Layers run from cores or spines at the top to GPUs at the bottom. One node is drawn in full with the leaves it is
attached to, and everything that repeats is folded into a stack with its count. The left margin gives rates and
latencies of each class of links. If the drawing shows a run, the colour of a line is the utilisation of its class of
links. Left out: individual cables.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from dessim.cluster.check import describe
from dessim.cluster.drawing.groups import Groups
from dessim.cluster.drawing.heat import STEP_LABELS, STEPS, WIRE, Heat
from dessim.cluster.drawing.margin import LEFT, MARGIN, LinkRow, draw_link_row
from dessim.cluster.drawing.router_map import draw_map, has_map
from dessim.cluster.drawing.server import NODE, PANEL, draw_node
from dessim.cluster.drawing.svg import FAINT, Box, Sheet
from dessim.cluster.drawing.tiers import GAP, SIDE, WIDTH, Spine, draw_leaves, draw_other_groups, draw_upper_tiers
from dessim.cluster.graph import Cluster
from dessim.units import counted, format_bandwidth, plural


def draw(cluster: Cluster, heat: Mapping[str, float] | None = None) -> str:
    """Return the drawing as an SVG document; the same cluster gives the same bytes.

    `heat` is the mean utilisation of each link class over a run, 0 to 1; classes that it does not list carried nothing.
    """
    sheet = Sheet(WIDTH, Heat(heat))
    y = _draw_title(sheet, cluster)
    if heat is not None:
        y = _draw_legend(sheet, y)
    mapped = has_map(cluster.fabric)
    spines: list[Spine] = []
    if mapped:
        y = draw_map(sheet, cluster, y)
    else:
        spines, y = draw_upper_tiers(sheet, cluster, y)
    groups = Groups.of(cluster)
    leaves = draw_leaves(sheet, groups, y, already_counted=mapped and groups.leaf_word != "leaf")
    others = draw_other_groups(sheet, groups, y)
    _join_spines(sheet, spines, leaves, others, separate=groups.separate)
    nic_row = LinkRow(f"NIC – {groups.leaf_word}", cluster.node.nic, "nic_up")
    draw_link_row(sheet, y + 65, cluster.links, nic_row)
    y += 150
    _draw_node_counts(sheet, cluster, y)
    bottom = draw_node(sheet, cluster, leaves, y, groups.leaf_of_nic)
    _draw_folded_nodes(sheet, groups, leaves, others, y)
    return sheet.finish(bottom + MARGIN, f"Cluster {cluster.name}")


def _join_spines(sheet: Sheet, spines: list[Spine], leaves: list[Box], others: Box | None, *, separate: bool) -> None:
    """Lines from each spine to the leaves; `separate` rails have dedicated spines, one box per rail."""
    for i, spine in enumerate(spines):
        joined = leaves[i : i + 1] if separate else [] if spine.of_other_pods else leaves
        for leaf in joined:
            sheet.line(spine.box.bottom, leaf.top, "leaf_up", width=1)
        if others:
            sheet.line(spine.box.bottom, others.top, "leaf_up", width=1)


def _draw_title(sheet: Sheet, cluster: Cluster) -> float:
    """Name, description and derived figures; returns where to continue below."""
    facts = describe(cluster)
    sheet.text(MARGIN, 38, cluster.name, size=22, bold=True)
    y = 60.0
    for row in textwrap.wrap(cluster.description, 130)[:3]:
        sheet.text(MARGIN, y, row, size=13, ink=FAINT)
        y += 18
    servers = " + ".join(
        f"{counted(kind['nodes'], 'node')} × {kind['gpus_per_node']} {kind['gpu']}" for kind in facts["node_kinds"]
    )
    bisection = facts["bisection_GBps"]
    bisection_text = "not computed" if bisection is None else format_bandwidth(bisection * 1e9)
    sheet.text(
        MARGIN,
        y + 2,
        f"{cluster.n_gpus:,} GPUs = {servers}   ·   {cluster.kind}, {cluster.routing.policy} routing   ·   "
        f"oversubscription {facts['oversubscription']:.3g}   ·   bisection {bisection_text}",
        size=13,
    )
    return y + 30


def _draw_legend(sheet: Sheet, y: float) -> float:
    """The meaning of line colours; returns where to continue below."""
    x = LEFT + 380.0
    text = "mean use of a link class over the run, busier direction:"
    sheet.text(x - 12, y + 10, text, anchor="end", ink=FAINT)
    for colour, label in zip((WIRE, *STEPS), ("unused", *STEP_LABELS), strict=True):
        sheet.box(Box(x, y + 1, 20, 9), "", colour)
        sheet.text(x + 25, y + 10, label, size=11, ink=FAINT)
        x += 83
    return y + 26


def _draw_node_counts(sheet: Sheet, cluster: Cluster, y: float) -> None:
    """Number of nodes, and the contents of each kind, in the margin."""
    has_trays = cluster.node.trays > 1
    sheet.text(MARGIN, y + 16, counted(cluster.n_nodes, "node"), size=14, bold=True)
    if has_trays:
        sheet.text(MARGIN, y + 52, f"in {cluster.node.trays} trays", ink=FAINT)
    several_kinds = len(cluster.nodes) > 1
    for row, kind in enumerate(cluster.wiring.kinds):
        contents = f"{counted(kind.node.gpus, 'GPU')} and {counted(kind.node.nics, 'NIC')}"
        which = f"from node{kind.block.first_node}" if several_kinds else "each"
        row_y = y + 34 + 18 * row + 18 * (row > 0 and has_trays)
        sheet.text(MARGIN, row_y, f"{contents} {which}", ink=FAINT)


def _draw_folded_nodes(sheet: Sheet, groups: Groups, leaves: list[Box], others: Box | None, y: float) -> None:
    """Stacks for the other nodes of the drawn group, and for those of all other groups."""
    if groups.nodes > 1:
        place = Box(LEFT + PANEL + GAP, y + 10, SIDE - 14, 64)
        where = plural(groups.leaf_word) if groups.leaves > 1 else groups.leaf_word
        count = f"{groups.nodes - 1:,} more {'nodes' if groups.nodes > 2 else 'node'}"
        draw_box = sheet.stack if groups.nodes > 2 else sheet.box
        draw_box(place, f"{count}\non the same\n{where}", NODE)
        for leaf in leaves:
            x = place.top[0] if groups.leaves == 1 else leaf.bottom[0]
            sheet.line((x, leaf.bottom[1]), place.top, "nic_up", width=1)
    if others:
        where = f"these {plural(groups.leaf_word)}" if groups.other_leaves > 1 else f"this {groups.leaf_word}"
        draw_box = sheet.stack if groups.other_nodes > 1 else sheet.box
        label = f"{counted(groups.other_nodes, 'node')}\non {where}"
        nodes = draw_box(Box(others.x, y + 10, others.width, 64), label, NODE)
        sheet.line(others.bottom, nodes.top, "nic_up", width=3)
