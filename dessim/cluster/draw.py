"""A drawing of a cluster that a person can read at 16 and at 65,536 GPUs.

Layers from spine to GPU, top to bottom; one node is drawn in full, with the leaves it hangs on; whatever is alike is
folded into a stack with its count. Rates and latencies of each layer of links stand in the left margin. Left out: the
cables one by one, and how loaded they are.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from dessim.cluster.check import describe
from dessim.cluster.fabrics.leaf_spine import LeafSpine
from dessim.cluster.graph import Cluster
from dessim.cluster.links import Links
from dessim.cluster.parts import Link
from dessim.cluster.svg import FAINT, Box, Sheet
from dessim.units import format_bandwidth, format_time

WIDTH, MARGIN, LEFT = 1180.0, 20.0, 290.0
SPINE, LEAF, NODE, NIC, GPU, PLANE = "#cfe0f5", "#d5ecd4", "#f7f7f4", "#fde8c8", "#f8d3d0", "#e3d7f0"
WIRE = "#9aa5b1"
SHOWN_GPUS, SHOWN_SPINES, SHOWN_RAILS = 8, 4, 8
PANEL, SIDE, GAP = 470.0, 130.0, 40.0


def draw(cluster: Cluster) -> str:
    """The SVG document; the same cluster gives the same bytes."""
    sheet = Sheet(WIDTH)
    y = _title(sheet, cluster)
    fabric = cluster.fabric
    spines: list[Box] = []
    if isinstance(fabric, LeafSpine) and fabric.leaves > 1:
        spines = _spines(sheet, cluster, fabric, y + 10)
        _margin(sheet, y + 78, "leaf – spine", fabric.uplink, cluster.links, "leaf_up", fabric.links_per_spine)
        y += 150
    groups = _Groups.of(cluster)
    leaves = _leaves(sheet, groups, y)
    others = _other_groups(sheet, groups, y)
    for spine in spines:
        for leaf in leaves:
            sheet.line(spine.bottom, leaf.top, WIRE, width=1)
        if others:
            sheet.line(spine.bottom, others[0].top, WIRE, width=1)
    _margin(sheet, y + 65, "NIC – leaf" if spines else "NIC – switch", cluster.node.nic, cluster.links, "nic_up")
    y += 150
    bottom = _nodes(sheet, cluster, groups, leaves, others, y)
    return sheet.finish(bottom + MARGIN, f"Cluster {cluster.name}")


@dataclass(frozen=True, slots=True)
class _Groups:
    """The nodes that share leaves: one group is drawn, the others are folded."""

    nodes: int
    """Nodes in the drawn group."""
    leaves: int
    """Leaves of the drawn group."""
    others: int
    other_nodes: int
    other_leaves: int
    word: str
    leaf_word: str

    @classmethod
    def of(cls, cluster: Cluster) -> _Groups:
        fabric, n = cluster.fabric, cluster.n_nodes
        if not isinstance(fabric, LeafSpine):
            return cls(n, 1, 0, 0, 0, "switch", "switch")
        rail = fabric.kind == "rail_optimised"
        a_group = cluster.node.nics if rail else 1
        # all NICs of node 0 sit on leaves 0 .. a_group - 1, and so do those of its neighbours
        inside = int((fabric.leaf < a_group).sum()) // cluster.node.nics
        others = (fabric.leaves - a_group) // a_group
        return cls(inside, a_group, others, n - inside, fabric.leaves - a_group, "pod" if rail else "leaf", "leaf")


def _title(sheet: Sheet, cluster: Cluster) -> float:
    facts = describe(cluster)
    sheet.text(MARGIN, 38, cluster.name, size=22, bold=True)
    y = 60.0
    for row in textwrap.wrap(cluster.description, 130)[:3]:
        sheet.text(MARGIN, y, row, size=13, ink=FAINT)
        y += 18
    per_node = f"{cluster.n_nodes:,} nodes × {cluster.gpus_per_node} {cluster.gpu.name}"
    bisection = format_bandwidth(facts["bisection_GBps"] * 1e9)
    sheet.text(
        MARGIN,
        y + 2,
        f"{cluster.n_gpus:,} GPUs = {per_node}   ·   {cluster.kind}, {cluster.fabric.routing} routing   ·   "
        f"oversubscription {facts['oversubscription']:.3g}   ·   bisection {bisection}",
        size=13,
    )
    return y + 30


def _spines(sheet: Sheet, cluster: Cluster, fabric: LeafSpine, y: float) -> list[Box]:
    sheet.text(MARGIN, y + 16, f"{fabric.spines:,} spine{'s' * (fabric.spines > 1)}", size=14, bold=True)
    if fabric.switch:
        sheet.text(MARGIN, y + 34, f"{fabric.switch.name}, {fabric.switch.ports} ports", ink=FAINT)
    shown = fabric.spines if fabric.spines <= SHOWN_SPINES + 1 else SHOWN_SPINES
    folded = fabric.spines - shown
    width, step = 100.0, 135.0
    count = shown + bool(folded)
    x = LEFT + (WIDTH - LEFT - MARGIN - (count - 1) * step - width) / 2
    boxes = [sheet.box(Box(x + i * step, y, width, 36), f"spine{i}", SPINE) for i in range(shown)]
    if folded:
        boxes.append(sheet.stack(Box(x + shown * step, y, width, 36), f"{folded:,} more", SPINE))
    return boxes


def _leaves(sheet: Sheet, groups: _Groups, y: float) -> list[Box]:
    total = groups.leaves + groups.other_leaves
    plural = {"switch": "switches", "leaf": "leaves"}[groups.leaf_word] if total > 1 else groups.leaf_word
    sheet.text(MARGIN, y + 16, f"{total:,} {plural}", size=14, bold=True)
    if groups.word == "pod":
        pods = f"{groups.others + 1:,} pod{'s' * (groups.others > 0)}"
        sheet.text(MARGIN, y + 34, f"{pods} of {groups.leaves} rail leaves", ink=FAINT)
    if groups.leaves == 1:
        name = "switch0" if groups.leaf_word == "switch" else "leaf0"
        return [sheet.box(Box(LEFT, y, PANEL + GAP + SIDE, 36), name, LEAF)]
    shown = groups.leaves if groups.leaves <= SHOWN_RAILS else SHOWN_RAILS - 1
    count = shown + (shown < groups.leaves)
    step = (PANEL + GAP + SIDE) / count
    boxes = [
        sheet.box(Box(LEFT + i * step, y, step - 12, 36), f"leaf{i}\nrail {i}", LEAF, size=11) for i in range(shown)
    ]
    if shown < groups.leaves:
        more = f"{groups.leaves - shown}\nmore"
        boxes.append(sheet.stack(Box(LEFT + shown * step, y, step - 18, 36), more, LEAF, size=11))
    return boxes


def _other_groups(sheet: Sheet, groups: _Groups, y: float) -> list[Box]:
    if not groups.others and not groups.other_leaves:
        return []
    x = LEFT + PANEL + SIDE + 2 * GAP
    width = WIDTH - MARGIN - 14 - x
    of = f"\nof {groups.others:,} more pod{'s' * (groups.others > 1)}" if groups.word == "pod" else ""
    leaves = f"{groups.other_leaves:,} more leaves" if groups.other_leaves > 1 else "1 more leaf"
    draw_one = sheet.stack if groups.other_leaves > 1 else sheet.box
    return [draw_one(Box(x, y, width, 36), leaves + of, LEAF)]


def _nodes(sheet: Sheet, cluster: Cluster, groups: _Groups, leaves: list[Box], others: list[Box], y: float) -> float:
    sheet.text(MARGIN, y + 16, f"{cluster.n_nodes:,} node{'s' * (cluster.n_nodes > 1)}", size=14, bold=True)
    g = cluster.gpus_per_node
    sheet.text(
        MARGIN,
        y + 34,
        f"{g} GPU{'s' * (g > 1)} and {cluster.node.nics} NIC{'s' * (cluster.node.nics > 1)} each",
        ink=FAINT,
    )
    bottom = _one_node(sheet, cluster, leaves, y)
    if groups.nodes > 1:
        more = Box(LEFT + PANEL + GAP, y + 10, SIDE - 14, 64)
        same = f"on the same\n{groups.leaf_word}{'s' * (groups.leaves > 1)}".replace("leafs", "leaves")
        fold = sheet.stack if groups.nodes > 2 else sheet.box
        fold(more, f"{groups.nodes - 1:,} more node{'s' * (groups.nodes > 2)}\n{same}", NODE)
        for leaf in leaves:
            below = more.top[0] if groups.leaves == 1 else leaf.bottom[0]
            sheet.line((below, leaf.bottom[1]), more.top, WIRE, width=1)
    if others:
        box = others[0]
        fold = sheet.stack if groups.other_nodes > 1 else sheet.box
        where = "these leaves" if groups.other_leaves > 1 else "this leaf"
        label = f"{groups.other_nodes:,} node{'s' * (groups.other_nodes > 1)}\non {where}"
        nodes = fold(Box(box.x, y + 10, box.width, 64), label, NODE)
        sheet.line(box.bottom, nodes.top, WIRE, width=3)
    return bottom


def _one_node(sheet: Sheet, cluster: Cluster, leaves: list[Box], y: float) -> float:
    """Node 0 in full; returns where its panel ends."""
    node, links = cluster.node, cluster.links
    shown = node.gpus if node.gpus <= SHOWN_GPUS else SHOWN_GPUS - 1
    count = shown + (shown < node.gpus)
    step = (PANEL - 20) / max(count, 4)
    width = step - 10
    start = LEFT + 10 + (PANEL - 20 - count * step) / 2 + 5
    nic_y = y + 14
    gpu_y = nic_y + (118 if node.pcie else 0)
    plane_y = gpu_y + 114
    bottom = plane_y + 56 if node.nvlink else gpu_y + 62
    outline = Box(LEFT, y, PANEL, bottom - y)
    sheet.box(outline, "", NODE)
    sheet.text(LEFT + 8, bottom - 8, "node0", size=12, bold=True)

    gpus = [Box(start + i * step, gpu_y, width, 36) for i in range(shown)]
    for i, box in enumerate(gpus):
        sheet.box(box, f"gpu{i}", GPU)
    if shown < node.gpus:
        gpus.append(
            sheet.stack(Box(start + shown * step, gpu_y, width - 8, 36), f"{node.gpus - shown}\nmore", GPU, size=11)
        )

    tops = gpus
    if node.pcie:
        _margin(sheet, nic_y + 60, "GPU – NIC (PCIe)", node.pcie, links, "pcie_up")
        tops = _nics(sheet, cluster, gpus, nic_y)
        for i, gpu in enumerate(gpus):
            nic = tops[min(i * node.nics // node.gpus, len(tops) - 1)]
            _inner(sheet, gpu.top, (_over(gpu, nic), nic.bottom[1]))
    for i, top in enumerate(tops):
        leaf = leaves[min(i, len(leaves) - 1)]
        at = leaf.bottom if len(leaves) > 1 else (top.top[0], leaf.bottom[1])
        sheet.line(at, (top.top[0], y), WIRE)
        if i == len(tops) - 1:  # a folded NIC also stands for those on the leaves that follow
            for rest in leaves[i + 1 :]:
                sheet.line(rest.bottom, (top.top[0], y), WIRE)
        _inner(sheet, (top.top[0], y), top.top)
    if node.nvlink:
        _margin(sheet, gpu_y + 58, "GPU – NVSwitch plane", node.nvlink, links, "nvlink_up")
        sheet.box(Box(LEFT + 15, plane_y, PANEL - 30, 30), "NVSwitch plane", PLANE)
        for gpu in gpus:
            _inner(sheet, gpu.bottom, (gpu.bottom[0], plane_y))
    return bottom


def _nics(sheet: Sheet, cluster: Cluster, gpus: list[Box], y: float) -> list[Box]:
    """A NIC above the GPUs that use it."""
    share = cluster.node.gpus // cluster.node.nics
    boxes = []
    for nic in range(0, cluster.node.nics):
        users = gpus[nic * share : (nic + 1) * share] if nic * share < len(gpus) else []
        if not users:
            break
        box = Box(users[0].x, y, users[-1].x + users[-1].width - users[0].x, 30)
        last = cluster.node.nics - 1
        # the NIC over the folded GPUs stands for all NICs that follow
        folded = users[-1] is gpus[-1] and cluster.node.gpus > SHOWN_GPUS and nic < last
        boxes.append(sheet.box(box, f"nic{nic} … {last}" if folded else f"nic{nic}", NIC, size=11))
    return boxes


def _over(gpu: Box, nic: Box) -> float:
    """Where the PCIe line meets the NIC: straight above the GPU."""
    return min(max(gpu.top[0], nic.x + 4), nic.x + nic.width - 4)


def _inner(sheet: Sheet, a: tuple[float, float], b: tuple[float, float]) -> None:
    """A line inside the node's panel, which would cover it if it were drawn with the others."""
    sheet.shapes.append(
        f'<line x1="{a[0]:g}" y1="{a[1]:g}" x2="{b[0]:g}" y2="{b[1]:g}" stroke="{WIRE}" stroke-width="1.4"/>'
    )


def _margin(sheet: Sheet, y: float, title: str, link: Link, links: Links, kind: str, cables: int = 1) -> None:
    """What the links of a layer are, beside them."""
    members = links.of_kind(kind)
    network = kind in ("nic_up", "leaf_up")
    wire = f"{link.rate * 8 / 1e9:.6g} Gb/s" if network else format_bandwidth(link.rate)
    times = f"{cables} × " if cables > 1 else ""
    payload = format_bandwidth(float(links.capacity[members[0]]))
    sheet.text(MARGIN, y, title, size=12, bold=True)
    sheet.text(MARGIN, y + 17, f"{times}{wire}, payload {payload}", ink=FAINT)
    sheet.text(MARGIN, y + 34, f"{format_time(float(links.latency[members[0]]))}; {len(members):,} each way", ink=FAINT)
