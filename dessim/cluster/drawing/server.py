"""One server in a drawing of a cluster: NICs, GPUs and the NVSwitch plane, and what is written in the left margin."""

from __future__ import annotations

import numpy as np

from dessim.cluster.drawing.svg import FAINT, Box, Sheet
from dessim.cluster.graph import Cluster
from dessim.cluster.links import Links
from dessim.cluster.parts import Link
from dessim.units import format_bandwidth, format_time

MARGIN, LEFT, PANEL = 20.0, 290.0, 470.0
NODE, NIC, PCIE, GPU, PLANE = "#f7f7f4", "#fde8c8", "#f3ecc4", "#f8d3d0", "#e3d7f0"
SHOWN_GPUS = 8


def one_node(sheet: Sheet, cluster: Cluster, leaves: list[Box], y: float, of_nic: tuple[int, ...] = ()) -> float:
    """Node 0 in full, its NIC i on leaf `of_nic[i]` (all on the first unless given); returns where its panel ends."""
    node, links = cluster.node, cluster.links
    shown = node.gpus if node.gpus <= SHOWN_GPUS else SHOWN_GPUS - 1
    count = shown + (shown < node.gpus)
    step = (PANEL - 20) / max(count, 4)
    width = step - 10
    start = LEFT + 10 + (PANEL - 20 - count * step) / 2 + 5
    nic_y = y + 14
    switch_y = nic_y + 72
    gpu_y = nic_y + (0 if not node.pcie else 190 if node.pcie_switches else 118)
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
        tops = _over_gpus(sheet, cluster, gpus, nic_y, "nic", node.nics, NIC)
        middle = tops
        if node.pcie_switches:
            middle = _over_gpus(sheet, cluster, gpus, switch_y, "PCIe switch ", node.pcie_switches, PCIE)
            for i, nic in enumerate(tops):
                switch = middle[min(i * node.pcie_switches // node.nics, len(middle) - 1)]
                _inner(sheet, nic.bottom, (_over(nic, switch), switch.y), "pcie_nic_up")
            margin(sheet, switch_y - 2, "PCIe switch – GPU, NIC", node.pcie, links, "pcie_up", also=("pcie_nic_up",))
            if node.pcie_uplink:
                margin(
                    sheet,
                    switch_y + 58,
                    f"PCIe switch – CPU ({node.sockets} a node)",
                    node.pcie_uplink,
                    links,
                    "pcie_host_up",
                )
        else:
            margin(sheet, nic_y + 60, "GPU – NIC (PCIe)", node.pcie, links, "pcie_up")
        for i, gpu in enumerate(gpus):
            parent = middle[min(i * (node.pcie_switches or node.nics) // node.gpus, len(middle) - 1)]
            _inner(sheet, gpu.top, (_over(gpu, parent), parent.bottom[1]), "pcie_up")
    for i, top in enumerate(tops):
        leaf = leaves[min(of_nic[i] if i < len(of_nic) else 0, len(leaves) - 1)]
        at = leaf.bottom if len(leaves) > 1 else (top.top[0], leaf.bottom[1])
        sheet.line(at, (top.top[0], y), "nic_up")
        if i == len(tops) - 1:  # a folded NIC also stands for those on the leaves that follow
            for rest in leaves[i + 1 :]:
                sheet.line(rest.bottom, (top.top[0], y), "nic_up")
        _inner(sheet, (top.top[0], y), top.top, "nic_up")
    if node.nvlink:
        margin(sheet, gpu_y + 58, "GPU – NVSwitch plane", node.nvlink, links, "nvlink_up")
        sheet.box(Box(LEFT + 15, plane_y, PANEL - 30, 30), "NVSwitch plane", PLANE)
        for gpu in gpus:
            _inner(sheet, gpu.bottom, (gpu.bottom[0], plane_y), "nvlink_up")
    return bottom


def _over_gpus(
    sheet: Sheet, cluster: Cluster, gpus: list[Box], y: float, word: str, count: int, fill: str
) -> list[Box]:
    """NICs or PCIe switches, each above the GPUs that use it."""
    share = cluster.node.gpus // count
    boxes = []
    for i in range(count):
        users = gpus[i * share : (i + 1) * share] if i * share < len(gpus) else []
        if not users:
            break
        box = Box(users[0].x, y, users[-1].x + users[-1].width - users[0].x, 30)
        # the one over the folded GPUs stands for all that follow
        folded = users[-1] is gpus[-1] and cluster.node.gpus > SHOWN_GPUS and i < count - 1
        boxes.append(sheet.box(box, f"{word}{i}\n… {count - 1}" if folded else f"{word}{i}", fill, size=11))
    return boxes


def _over(gpu: Box, nic: Box) -> float:
    """Where the PCIe line meets the NIC: straight above the GPU."""
    return min(max(gpu.top[0], nic.x + 4), nic.x + nic.width - 4)


def _inner(sheet: Sheet, a: tuple[float, float], b: tuple[float, float], kind: str) -> None:
    """A line inside the node's panel, which would cover it if it were drawn with the others."""
    colour = sheet.heat.colour(kind)
    sheet.shapes.append(
        f'<line x1="{a[0]:g}" y1="{a[1]:g}" x2="{b[0]:g}" y2="{b[1]:g}" stroke="{colour}" stroke-width="1.4"/>'
    )


def margin(
    sheet: Sheet,
    y: float,
    title: str,
    link: Link,
    links: Links,
    kind: str,
    cables: int = 1,
    pairs: int | None = None,
    also: tuple[str, ...] = (),
) -> None:
    """What the links of a layer are, beside them, and how busy where the sheet has heat.

    `pairs` of them, where the kind holds both directions; `also` are kinds that the row stands for as well: it says how
    busy the busiest is.
    """
    members = links.of_kind(kind)
    network = not kind.startswith(("pcie", "nvlink"))
    wire = f"{link.rate * 8 / 1e9:.6g} Gb/s" if network else format_bandwidth(link.rate)
    times = f"{cables} × " if cables > 1 else ""
    slowest, fastest = (format_bandwidth(float(end(links.capacity[members]))) for end in (np.min, np.max))
    payload = slowest if slowest == fastest else f"{_less_unit(slowest, fastest)}–{fastest}"
    sheet.text(MARGIN, y, title, size=12, bold=True)
    sheet.text(MARGIN, y + 17, f"{times}{wire}, payload {payload}", ink=FAINT)
    sheet.text(
        MARGIN,
        y + 34,
        f"{format_time(float(links.latency[members[0]]))}; {pairs or len(members):,} each way",
        ink=FAINT,
    )
    if sheet.heat.shares is not None:
        busiest = max((kind, *also), key=sheet.heat.share)
        sheet.box(Box(LEFT - 80, y + 25, 20, 9), "", sheet.heat.colour(busiest))
        sheet.text(LEFT - 8, y + 34, sheet.heat.percent(busiest), anchor="end", bold=True)


def _less_unit(text: str, other: str) -> str:
    """A quantity without its unit, where the other one, which follows, has the same."""
    number, _, unit = text.partition(" ")
    return number if other.endswith(f" {unit}") else text
