"""Servers as NCCL and nvidia-smi describe them, with the structure of real ones.

The XML is that of NCCL 2.29 (src/graph/xml.cc): a DGX A100 with two storage adapters, a DGX-1 whose V100 form a cube
mesh, and a server whose GPUs are joined by PCIe alone.
"""

from __future__ import annotations

CUBE_MESH = {
    0: {1: 1, 2: 1, 3: 2, 4: 2},
    1: {0: 1, 2: 2, 3: 1, 5: 2},
    2: {0: 1, 1: 2, 3: 2, 6: 1},
    3: {0: 2, 1: 1, 2: 2, 7: 1},
}
"""NVLinks between the V100 of a DGX-1 (NVIDIA DGX-1 white paper, figure 4); GPU 4 + i mirrors GPU i."""


def _pci(
    bus: int, kind: str, inside: list[str], *, vendor: str = "0x10de", device: str = "0x0", speed: str = "16.0"
) -> str:
    link = f'link_speed="{speed} GT/s PCIe" link_width="16"'
    head = f'<pci busid="0000:{bus:02x}:00.0" class="{kind}" vendor="{vendor}" device="{device}" {link}>'
    return "\n".join([head, *inside, "</pci>"])


def _gpu(number: int, sm: int, nvlinks: list[str]) -> str:
    return "\n".join([f'<gpu dev="{number}" sm="{sm}" rank="{number}" gdr="1">', *nvlinks, "</gpu>"])


def _net(name: str, number: int, speed: int, gdr: int = 1) -> str:
    port = f'port="1" latency="0.0" guid="0x{number + 1}"'
    return f'<nic><net name="{name}" dev="{number}" speed="{speed}" {port} gdr="{gdr}"/></nic>'


def _system(by_cpu: list[list[str]]) -> str:
    cpus = [
        "\n".join(
            [f'<cpu numaid="{n}" arch="x86_64" vendor="AuthenticAMD" familyid="143" modelid="49">', *inside, "</cpu>"]
        )
        for n, inside in enumerate(by_cpu)
    ]
    return "\n".join(['<system version="1">', *cpus, "</system>", ""])


def dgx_a100() -> str:
    """Four PCIe switches on two CPUs, each with two GPUs and two adapters; two storage adapters; Ethernet."""
    switches = []
    for switch in range(4):
        inside = []
        for place in range(2):
            number = 2 * switch + place
            links = [f'<nvlink target="0000:c{chip}:00.0" count="2" tclass="0x068000"/>' for chip in range(4, 10)]
            gpu = _pci(16 * switch + 2 * place + 3, "0x030200", [_gpu(number, 80, links)], device="0x20b0")
            name = f"mlx5_{number if number < 4 else number + 2}"
            nic = _pci(16 * switch + 2 * place + 4, "0x020700", [_net(name, number, 200000)], vendor="0x15b3")
            inside += [nic, _pci(16 * switch + 8 + place, "0x060400", [gpu], vendor="0x1000")]
        switches.append(_pci(16 * switch + 1, "0x060400", inside, vendor="0x1000"))
    storage = [
        _pci(0x61 + i, "0x020700", [_net(f"mlx5_{4 + 6 * i}", 8 + i, 200000)], vendor="0x15b3") for i in range(2)
    ]
    ethernet = _net("eth0", 10, 10000, gdr=0)
    return _system([[switches[0], switches[1], storage[0], ethernet], [switches[2], switches[3], storage[1], ethernet]])


def dgx_1() -> str:
    """Eight V100, four adapters of 100 Gb/s, one for each PCIe switch with two GPUs."""
    switches = []
    for switch in range(4):
        inside = []
        for number in (2 * switch, 2 * switch + 1):
            mesh = CUBE_MESH[number % 4]
            peers = {(peer if number < 4 else (peer + 4) % 8): count for peer, count in mesh.items()}
            links = [
                f'<nvlink target="0000:{0x80 + p:02x}:00.0" count="{c}" tclass="0x030200"/>' for p, c in peers.items()
            ]
            inside.append(_pci(0x80 + number, "0x030200", [_gpu(number, 70, links)], device="0x1db5", speed="8.0"))
        inside.append(_pci(16 * switch + 4, "0x020700", [_net(f"mlx5_{switch}", switch, 100000)], vendor="0x15b3"))
        switches.append(_pci(16 * switch + 1, "0x060400", inside, vendor="0x10b5"))
    return _system([switches[:2], switches[2:]])


def without_nvlink(gpus: int = 4) -> str:
    """GPUs in pairs on PCIe switches of one CPU each, with one adapter for each pair."""
    by_cpu = []
    for switch in range(gpus // 2):
        inside = [
            _pci(16 * switch + 2 + i, "0x030200", [_gpu(2 * switch + i, 80, [])], device="0x20f1") for i in range(2)
        ]
        inside.append(_pci(16 * switch + 4, "0x020000", [_net(f"mlx5_{switch}", switch, 100000)], vendor="0x15b3"))
        by_cpu.append([_pci(16 * switch + 1, "0x060400", inside, vendor="0x1000")])
    return _system(by_cpu)


def nvidia_smi(gpus: int = 8, links: int = 18, nics: int = 8) -> str:
    """`nvidia-smi topo -m` of a server with an NVSwitch plane."""
    columns = [f"GPU{i}" for i in range(gpus)] + [f"NIC{i}" for i in range(nics)]
    lines = ["\t" + "\t".join([*columns, "CPU Affinity", "NUMA Affinity", "GPU NUMA ID"])]
    for row, name in enumerate(columns):
        cells = []
        for column in range(len(columns)):
            both_gpus = row < gpus and column < gpus
            near = row % gpus == column % gpus
            cells.append("X" if row == column else f"NV{links}" if both_gpus else "PIX" if near else "SYS")
        lines.append("\t".join([name, *cells, *(["0-47", "0", "N/A"] if row < gpus else [])]))
    legend = [
        "",
        "Legend:",
        "",
        "  X    = Self",
        "  NV#  = Connection traversing a bonded set of # NVLinks",
        "",
        "NIC Legend:",
        "",
    ]
    return "\n".join([*lines, *legend, *(f"  NIC{i}: mlx5_{i}" for i in range(nics)), ""])
