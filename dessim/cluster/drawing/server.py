"""One server in a drawing of a cluster: its NICs, PCIe switches, GPUs and NVSwitch plane."""

from __future__ import annotations

from dataclasses import dataclass

from dessim.cluster.drawing.margin import LEFT, LinkRow, draw_link_row
from dessim.cluster.drawing.svg import Box, Sheet
from dessim.cluster.graph import Cluster
from dessim.cluster.links import Links
from dessim.cluster.parts import Node

PANEL = 470.0
"""Width of the panel that shows a server."""
NODE = "#f7f7f4"
NIC = "#fde8c8"
PCIE = "#f3ecc4"
GPU = "#f8d3d0"
PLANE = "#e3d7f0"
SHOWN_GPUS = 8


@dataclass(frozen=True, slots=True)
class _Rows:
    """Upper edges of the rows of boxes in the panel of a server, and the lower edge of the panel."""

    panel: float
    nic: float
    pcie_switch: float
    gpu: float
    plane: float
    bottom: float

    @classmethod
    def of(cls, node: Node, y: float) -> _Rows:
        nic = y + 14
        gpu = nic + (0 if not node.pcie else 190 if node.pcie_switches else 118)
        plane = gpu + 114
        return cls(y, nic, nic + 72, gpu, plane, bottom=plane + 56 if node.nvlink else gpu + 62)


def draw_node(sheet: Sheet, cluster: Cluster, leaves: list[Box], y: float, leaf_of_nic: tuple[int, ...] = ()) -> float:
    """Draw node 0 at height `y`; return the lower edge of its panel.

    NIC i is joined to `leaves[leaf_of_nic[i]]`, and to the first leaf if the tuple is empty.
    """
    node = cluster.node
    rows = _Rows.of(node, y)
    sheet.box(Box(LEFT, y, PANEL, rows.bottom - y), "", NODE)
    sheet.text(LEFT + 8, rows.bottom - 8, "node0", size=12, bold=True)
    gpus = _draw_gpus(sheet, node, rows.gpu)
    nics = _draw_pcie(sheet, cluster, gpus, rows) if node.pcie else gpus
    _join_leaves(sheet, nics, leaves, y, leaf_of_nic)
    if node.nvlink:
        draw_link_row(sheet, rows.gpu + 58, cluster.links, LinkRow("GPU – NVSwitch plane", node.nvlink, "nvlink_up"))
        sheet.box(Box(LEFT + 15, rows.plane, PANEL - 30, 30), "NVSwitch plane", PLANE)
        for gpu in gpus:
            _line_in_panel(sheet, gpu.bottom, (gpu.bottom[0], rows.plane), "nvlink_up")
    return rows.bottom


def _draw_gpus(sheet: Sheet, node: Node, y: float) -> list[Box]:
    """The first GPUs, and a stack for those that do not fit."""
    shown = node.gpus if node.gpus <= SHOWN_GPUS else SHOWN_GPUS - 1
    count = shown + (shown < node.gpus)
    step = (PANEL - 20) / max(count, 4)
    width = step - 10
    start = LEFT + 10 + (PANEL - 20 - count * step) / 2 + 5
    gpus = [Box(start + i * step, y, width, 36) for i in range(shown)]
    for i, box in enumerate(gpus):
        sheet.box(box, f"gpu{i}", GPU)
    if shown < node.gpus:
        stack = Box(start + shown * step, y, width - 8, 36)
        gpus.append(sheet.stack(stack, f"{node.gpus - shown}\nmore", GPU, size=11))
    return gpus


def _draw_pcie(sheet: Sheet, cluster: Cluster, gpus: list[Box], rows: _Rows) -> list[Box]:
    """NICs, PCIe switches if there are any, and the links from GPUs to these; returns the NICs."""
    node = cluster.node
    assert node.pcie is not None
    nics = _boxes_above(sheet, node, gpus, y=rows.nic, word="nic", count=node.nics, fill=NIC)
    parents = nics
    if node.pcie_switches:
        parents = _boxes_above(
            sheet, node, gpus, y=rows.pcie_switch, word="PCIe switch ", count=node.pcie_switches, fill=PCIE
        )
        for i, nic in enumerate(nics):
            switch = parents[min(i * node.pcie_switches // node.nics, len(parents) - 1)]
            _line_in_panel(sheet, nic.bottom, (_x_above(nic, switch), switch.y), "pcie_nic_up")
    _draw_pcie_margin(sheet, node, cluster.links, rows)
    for i, gpu in enumerate(gpus):
        parent = parents[min(i * (node.pcie_switches or node.nics) // node.gpus, len(parents) - 1)]
        _line_in_panel(sheet, gpu.top, (_x_above(gpu, parent), parent.bottom[1]), "pcie_up")
    return nics


def _draw_pcie_margin(sheet: Sheet, node: Node, links: Links, rows: _Rows) -> None:
    assert node.pcie is not None
    if not node.pcie_switches:
        draw_link_row(sheet, rows.nic + 60, links, LinkRow("GPU – NIC (PCIe)", node.pcie, "pcie_up"))
        return
    below = LinkRow("PCIe switch – GPU, NIC", node.pcie, "pcie_up", also=("pcie_nic_up",))
    draw_link_row(sheet, rows.pcie_switch - 2, links, below)
    if node.pcie_uplink:
        above = LinkRow(f"PCIe switch – CPU ({node.sockets} per node)", node.pcie_uplink, "pcie_host_up")
        draw_link_row(sheet, rows.pcie_switch + 58, links, above)


def _join_leaves(sheet: Sheet, nics: list[Box], leaves: list[Box], y: float, leaf_of_nic: tuple[int, ...]) -> None:
    """The links from NICs to leaves; `y` is the upper edge of the panel."""
    for i, nic in enumerate(nics):
        leaf = leaves[min(leaf_of_nic[i] if i < len(leaf_of_nic) else 0, len(leaves) - 1)]
        at = leaf.bottom if len(leaves) > 1 else (nic.top[0], leaf.bottom[1])
        sheet.line(at, (nic.top[0], y), "nic_up")
        if i == len(nics) - 1:  # a stack also stands for the NICs on the leaves that follow
            for following in leaves[i + 1 :]:
                sheet.line(following.bottom, (nic.top[0], y), "nic_up")
        _line_in_panel(sheet, (nic.top[0], y), nic.top, "nic_up")


def _boxes_above(sheet: Sheet, node: Node, gpus: list[Box], *, y: float, word: str, count: int, fill: str) -> list[Box]:
    """The `count` NICs or PCIe switches of a node, each above the GPUs that use it."""
    gpus_each = node.gpus // count
    boxes = []
    for i in range(count):
        users = gpus[i * gpus_each : (i + 1) * gpus_each] if i * gpus_each < len(gpus) else []
        if not users:
            break
        box = Box(users[0].x, y, users[-1].x + users[-1].width - users[0].x, 30)
        # The one above the stack of GPUs stands for all that follow.
        folded = users[-1] is gpus[-1] and node.gpus > SHOWN_GPUS and i < count - 1
        boxes.append(sheet.box(box, f"{word}{i}\n… {count - 1}" if folded else f"{word}{i}", fill, size=11))
    return boxes


def _x_above(box: Box, parent: Box) -> float:
    """Where the line from `box` reaches `parent`: straight above, but within the parent."""
    return min(max(box.top[0], parent.x + 4), parent.x + parent.width - 4)


def _line_in_panel(sheet: Sheet, a: tuple[float, float], b: tuple[float, float], kind: str) -> None:
    """A line above the panel of the node, which would cover it if it were below all boxes like other lines."""
    colour = sheet.heat.colour(kind)
    sheet.shapes.append(
        f'<line x1="{a[0]:g}" y1="{a[1]:g}" x2="{b[0]:g}" y2="{b[1]:g}" stroke="{colour}" '
        f'stroke-width="{1.4 * sheet.heat.width(kind):g}"/>'
    )
