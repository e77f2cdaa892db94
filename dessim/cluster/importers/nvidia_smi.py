"""A server in the output of `nvidia-smi topo -m`: a matrix of GPUs and adapters with the kind of path between each two.

`NV18` is 18 bonded NVLinks; PIX, PXB, PHB, NODE and SYS are paths over PCIe, which dessim takes as one PCIe link. The
output names neither the GPU nor the rate of an adapter; the number of NVLinks suggests the GPU.
"""

from __future__ import annotations

import re
from pathlib import Path

from dessim.cluster.importers.found import FoundNode, Nic, undivided, unused_adapters
from dessim.errors import ClusterError

_GENERATIONS = {18: 90, 12: 80, 6: 70}
"""NVLinks of a GPU -> compute capability times ten of the first GPU that had as many."""
_FOUR_SUPERCHIPS = "node.nvlink_wiring = pairwise: as in four GH200; four V100 of a DGX-2 also show NV6, on an NVSwitch"
_PATHS = r"X|SYS|NODE|PHB|PXB|PIX|NV[0-9]{1,3}|N/A|OK"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def read_nvidia_smi(path: Path, text: str, nics: re.Pattern[str] | None = None) -> FoundNode:
    """Read the matrix in the text of a file. Raises ClusterError.

    With `nics`, the adapters are those whose name it matches.
    """
    text = _ANSI.sub("", text)
    lines = text.splitlines()
    head = next((number for number, line in enumerate(lines) if re.match(r"[ \t]+GPU0\b", line)), None)
    if head is None:
        raise ClusterError(
            path, "", "has no line of columns GPU0, GPU1, ...; expected the output of nvidia-smi topo -m"
        )
    columns = [
        name for name in lines[head].split() if re.fullmatch(r"GPU[0-9]{1,4}|NIC[0-9]{1,4}|\w+_[0-9]{1,4}", name)
    ]
    gpus = [name for name in columns if name.startswith("GPU")]
    cells: dict[str, list[str]] = {}
    for line in lines[head + 1 :]:
        name, *row = line.split() or [""]
        if name in columns:
            if len(row) < len(columns) or not all(re.fullmatch(_PATHS, cell) for cell in row[: len(columns)]):
                raise ClusterError(path, name, f"needs {len(columns)} paths such as NV18, PIX or SYS")
            cells[name] = row[: len(columns)]
    missing = [name for name in gpus if name not in cells]
    if missing:
        raise ClusterError(path, missing[0], "has a column but no line")
    links, wiring = _nvlinks(path, [cells[name][: len(gpus)] for name in gpus])
    names = dict(re.findall(r"^\s*(NIC[0-9]{1,4}):\s*(\S+)", text, re.MULTILINE))
    adapters = [names.get(column, column) for column in columns if column not in gpus]
    kept = [name for name in adapters if nics is None or nics.search(name)]
    if len(kept) > len(gpus):
        near = [_near(cells, column, len(gpus)) for column in columns[len(gpus) :]]
        kept = [name for name, is_near in zip(adapters, near, strict=True) if name in kept and is_near]
    if not kept or len(gpus) % len(kept):
        raise ClusterError(path, "", undivided(len(kept), len(gpus), adapters))
    left_out = unused_adapters([name for name in adapters if name not in kept])
    return FoundNode(
        gpus=len(gpus),
        nics=tuple(Nic(name) for name in kept),
        generation=_GENERATIONS.get(links, 90 if links > 12 else 80),
        nvlinks=links,
        wiring=wiring,
        left_out=left_out,
        assumed=(_FOUR_SUPERCHIPS,) if wiring == "pairwise" and links == 18 else (),
    )


def _nvlinks(path: Path, rows: list[list[str]]) -> tuple[int, str]:
    """NVLinks of each GPU, and how they are wired: `NV18` to each of seven others is one bundle of 18 to a switch.

    Cables to each of the seven would be 126 NVLinks, more than any GPU has; a large number therefore counts once.
    """
    own = [[int(cell[2:]) for cell in row if cell.startswith("NV")] for row in rows]
    if not any(own):
        return 0, "switched"
    if len({tuple(sorted(links)) for links in own}) > 1:
        raise ClusterError(path, "", "the GPUs differ in their NVLinks; a server has GPUs of one kind")
    first = own[0]
    if len(first) == len(rows) - 1 and len(set(first)) == 1:
        pairwise = len(rows) <= 4 and (first[0] <= 4 or (len(rows) == 4 and first[0] == 6))
        return (first[0] * len(first), "pairwise") if pairwise else (first[0], "switched")
    if len(rows) == 8 and len(first) == 4:
        return sum(first), "cube_mesh"
    raise ClusterError(path, "", "NVLinks join neither all pairs of GPUs, nor 8 V100 as a cube mesh")


def _near(cells: dict[str, list[str]], nic: str, gpus: int) -> bool:
    """Whether an adapter shares a PCIe switch with a GPU."""
    return nic in cells and any(cell in ("PIX", "PXB") for cell in cells[nic][:gpus])
