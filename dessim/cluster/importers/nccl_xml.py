"""A server in the topology that NCCL writes to the file named by `NCCL_TOPO_DUMP_FILE`.

`<system>` holds a `<cpu>` for each NUMA node with the PCIe tree below it: `<pci>` bridges, `<gpu>` with its
`<nvlink>`s, and `<nic>` with its `<net>`s (NCCL 2.29, src/graph/xml.cc and topo.cc). Left out: adapters that NCCL would
not use for GPUs: those without GPUDirect where others have it, slower ones, and those that share no PCIe switch with a
GPU where that leaves enough. In virtual machines the PCIe tree may be made up; a link without a width is unknown.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dessim.cluster.importers.found import FoundNode, Nic, Rate, undivided, unused_adapters
from dessim.cluster.importers.parts import GPUS_BY_PCI_ID
from dessim.cluster.importers.read import parse_xml
from dessim.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.etree.ElementTree import Element

_BRIDGE = "0x0604"  # PCI class of bridges
_NVSWITCH = "0x0680"
_AMAZON = "0x1d0f"  # PCI vendor of EFA
_MAX_GPUS = 1024
_SAME_BOARDS = {103: 100}
"""Compute capability times ten of GPUs (B300) -> the one with the same NVLink and PCIe."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """An element of the tree with the `<pci>` elements above it, outermost first, and its `<cpu>`."""

    element: Element
    above: tuple[Element, ...]
    cpu: Element

    @property
    def bridges(self) -> list[str]:
        """The PCIe switches above it."""
        return [_text(pci, "busid") for pci in self.above if _text(pci, "class").startswith(_BRIDGE)]


def read_nccl_xml(path: Path, text: str, nics: re.Pattern[str] | None = None) -> FoundNode:
    """Read GPUs, NVLink, PCIe and adapters in the text of a file. Raises ClusterError.

    With `nics`, the adapters are those whose name it matches.
    """
    root = parse_xml(path, text)
    if root.tag != "system":
        raise ClusterError(path, "", f"its root is <{root.tag}>; NCCL_TOPO_DUMP_FILE writes <system>")
    placed = [device for cpu in root.iter("cpu") for device in _walk(cpu, (), cpu)]
    gpus = [device for device in placed if device.element.tag == "gpu"]
    if not gpus:
        raise ClusterError(path, "system", "holds no <gpu>")
    if len(gpus) > _MAX_GPUS:
        raise ClusterError(path, "system", f"holds {len(gpus)} GPUs; a server has at most {_MAX_GPUS}")
    gpus.sort(key=lambda gpu: _number(path, gpu.element, "dev"))
    capability = _same(path, "sm", [_number(path, gpu.element, "sm") for gpu in gpus])
    links, wiring = _nvlinks(path, gpus)
    nets, left_out = _compute_nets(path, [net for net in placed if net.element.tag == "net"], gpus, nics)
    pcie_switches, sockets = _pcie_tree(gpus, nets, len(list(root.iter("cpu"))))
    return FoundNode(
        gpus=len(gpus),
        nics=tuple(Nic(_text(net.element, "name"), _net_rate(path, net), _network(net)) for net in nets),
        gpu=GPUS_BY_PCI_ID.get(_text(gpus[0].above[-1], "device")) if gpus[0].above else None,
        generation=_SAME_BOARDS.get(capability, capability),
        nvlinks=links,
        wiring=wiring,
        pcie=min((rate for gpu in gpus if (rate := _pcie_rate(gpu)) is not None), default=None),
        pcie_switches=pcie_switches,
        sockets=sockets,
        left_out=left_out,
    )


def _walk(element: Element, above: tuple[Element, ...], cpu: Element) -> Iterator[_Placed]:
    """GPUs and nets in the order of the file. The tree may be deep, so it is walked without recursion."""
    pending = [(child, above) for child in reversed(element)]
    while pending:
        child, path = pending.pop()
        if child.tag in ("gpu", "net"):
            yield _Placed(child, path, cpu)
        elif child.tag in ("pci", "nic"):
            below = (*path, child) if child.tag == "pci" else path
            pending += [(grandchild, below) for grandchild in reversed(child)]


def _nvlinks(path: Path, gpus: list[_Placed]) -> tuple[int, str]:
    """Links of each GPU, and how they are wired."""
    own = [gpu.element.findall("nvlink") for gpu in gpus]
    counts = [sum(_number(path, link, "count") for link in links) for links in own]
    if not any(counts):
        return 0, "switched"
    total = _same(path, "sum of nvlink counts", counts)
    if any(_text(link, "tclass").startswith(_NVSWITCH) for links in own for link in links):
        return total, "switched"
    peers = [len({_text(link, "target") for link in links}) for links in own]
    if all(n == len(gpus) - 1 for n in peers):
        return total, "pairwise"
    if len(gpus) == 8 and all(n == 4 for n in peers):
        return total, "cube_mesh"
    raise ClusterError(
        path, "nvlink", "joins GPUs neither through NVSwitches, nor all pairs, nor as a cube mesh of 8 V100"
    )


def _compute_nets(
    path: Path, nets: list[_Placed], gpus: list[_Placed], nics: re.Pattern[str] | None
) -> tuple[list[_Placed], tuple[str, ...]]:
    """The adapters that carry GPUs' traffic, and a sentence on the others."""
    unique = list({_text(net.element, "name"): net for net in nets}.values())
    if nics is not None:
        kept = [net for net in unique if nics.search(_text(net.element, "name"))]
    else:
        direct = [net for net in unique if _text(net.element, "gdr") == "1"] or unique
        fastest = max((_net_rate(path, net) or 0.0 for net in direct), default=0.0)
        kept = [net for net in direct if (_net_rate(path, net) or 0.0) == fastest]
        if len(gpus) % max(1, len(kept)):
            shared = [bridge for gpu in gpus for bridge in gpu.bridges]
            kept = [net for net in kept if set(net.bridges) & set(shared)]
    if not kept or len(gpus) % len(kept):
        names = [_text(net.element, "name") for net in unique]
        raise ClusterError(path, "net", undivided(len(kept), len(gpus), names))
    return kept, unused_adapters([_text(net.element, "name") for net in unique if net not in kept])


def _pcie_tree(gpus: list[_Placed], nets: list[_Placed], cpus: int) -> tuple[int, int]:
    """PCIe switches and sockets, where equal runs of GPUs and adapters share them as topology files require."""
    top = [device.bridges[0] if device.bridges else "" for device in (*gpus, *nets)]
    switches = list(dict.fromkeys(top[: len(gpus)]))
    if "" in top or set(top[len(gpus) :]) != set(switches) or len(gpus) % len(switches) or len(nets) % len(switches):
        return 0, 1
    if any(top[i] != switches[i * len(switches) // len(gpus)] for i in range(len(gpus))):
        return 0, 1
    sockets = cpus if cpus and len(switches) % cpus == 0 else 1
    return len(switches), sockets


def _pcie_rate(gpu: _Placed) -> Rate:
    """Bytes/s of the link of a GPU in one direction: transfers/s times lanes; None where either is not plausible."""
    if not gpu.above:
        return None
    speed = re.match(r"([0-9]{1,3}(?:\.[0-9]{1,3})?) GT/s", _text(gpu.above[-1], "link_speed"))
    width = re.fullmatch(r"[0-9]{1,2}", _text(gpu.above[-1], "link_width"))
    rate = float(speed[1]) * 1e9 / 8 * int(width[0]) if speed and width else 0.0
    return rate or None


def _net_rate(path: Path, net: _Placed) -> Rate:
    """Bytes/s of `speed`, which is in Mb/s."""
    text = _text(net.element, "speed")
    try:
        rate = float(text or 0) * 1e6 / 8
    except ValueError:
        raise ClusterError(path, "net.speed", f"{text!r} is not a number of Mb/s") from None
    if not math.isfinite(rate) or rate < 0:
        raise ClusterError(path, "net.speed", f"{text!r} is not a number of Mb/s")
    return rate or None


def _network(net: _Placed) -> str:
    """The kind of network, by the PCI class and vendor of the adapter, or by its name."""
    pci = net.above[-1] if net.above else None
    name = _text(net.element, "name")
    if pci is not None and _text(pci, "vendor") == _AMAZON:
        return "efa"
    if name.startswith(("hsn", "cxi")):
        return "slingshot"
    if pci is not None and _text(pci, "class").startswith("0x0207"):
        return "ib"
    if name.startswith("mlx5") and pci is not None and _text(pci, "class").startswith("0x0200"):
        return "roce"
    return "tcp" if name.startswith(("eth", "en", "bond")) else ""


def _text(element: Element, key: str) -> str:
    return element.get(key, "")


def _number(path: Path, element: Element, key: str) -> int:
    text = _text(element, key)
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise ClusterError(path, f"{element.tag}.{key}", f"{text!r} is not a whole number")
    return int(text)


def _same(path: Path, what: str, values: list[int]) -> int:
    if len(set(values)) > 1:
        listed = ", ".join(map(str, values))
        raise ClusterError(path, "gpu", f"{what} differs between the GPUs: {listed}; a server has GPUs of one kind")
    return values[0]
