"""The parts of the catalogue (topologies/parts) that stand for what an imported file names by rate, count or PCI id.

PCI ids are those of the PCI ID Repository (pci-ids.ucw.cz), rates of one NVLink those of NVIDIA's data sheets.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dessim.cluster.importers.found import Rate

Values = dict[str, "str | int"]
GBIT = 1e9 / 8


@dataclass(frozen=True, slots=True)
class Choice:
    """A part by name, the keys that differ from it, and why it is an assumption; empty if a file names it."""

    part: str
    changes: Values = field(default_factory=dict)
    assumed: str = ""

    def because(self, assumed: str) -> Choice:
        """The same part, assumed for this reason."""
        return replace(self, assumed=assumed)


GPUS_BY_PCI_ID: dict[str, dict[str, str]] = {
    "0x1db1": {"part": "v100-sxm2-32gb", "memory": "16 GB"},
    "0x1db5": {"part": "v100-sxm2-32gb"},
    "0x20b0": {"part": "a100-sxm-40gb"},
    "0x20b2": {"part": "a100-sxm-80gb"},
    "0x2330": {"part": "h100-sxm"},
    "0x2335": {"part": "h200-sxm"},
    "0x2901": {"part": "b200-sxm"},
    "0x2941": {"part": "gb200"},
}
GENERATIONS = {70: "v100-sxm2-32gb", 80: "a100-sxm-80gb", 90: "h100-sxm", 100: "b200-sxm"}
"""Compute capability times ten -> the part assumed where no PCI id names one."""
_FAMILIES = {"v100": 70, "a100": 80, "h100": 90, "h200": 90, "b200": 100, "gb200": 100}
"""First word of a GPU part -> compute capability times ten."""
_NVLINKS = {
    70: ("nvlink2-6", 6, 25.0),
    80: ("nvlink3-12", 12, 25.0),
    90: ("nvlink4-18", 18, 25.0),
    100: ("nvlink5-18", 18, 50.0),
}
"""Part, its number of links, and GB/s of one link in each direction."""
_NVSWITCHES = {80: "nvswitch-gen2", 90: "nvswitch-gen3", 100: "nvlink-switch-gen5"}
_PCIE_GENERATIONS = {70: "pcie3-x16", 80: "pcie4-x16", 90: "pcie5-x16", 100: "pcie5-x16"}
_PCIE = {"pcie3-x16": 16e9, "pcie4-x16": 32e9, "pcie5-x16": 64e9}
_NICS = {
    "ib": {400: "connectx-7", 200: "connectx-6", 100: "connectx-5"},
    "ethernet": {400: "connectx-7", 200: "connectx-6", 100: "connectx-5", 25: "connectx-4-lx"},
    "efa": {400: "efa-400", 100: "efa-100"},
    "slingshot": {200: "cassini"},
}
_CABLES = {
    "ib": {400: "infiniband-ndr", 200: "infiniband-hdr", 100: "infiniband-edr"},
    "ethernet": {400: "ethernet-400", 100: "ethernet-100", 25: "ethernet-25"},
    "slingshot": {200: "slingshot-11"},
}
_SWITCHES = {
    "ib": {400: "quantum-2", 200: "quantum-hdr", 100: "switch-ib-2"},
    "ethernet": {400: "spectrum-4", 100: "spectrum"},
    "slingshot": {200: "rosetta"},
}
_TRANSPORTS = {
    "ib": "nccl-ib",
    "roce": "nccl-roce",
    "ethernet": "nccl-roce",
    "tcp": "nccl-tcp",
    "efa": "nccl-efa",
    "slingshot": "nccl-slingshot",
}


def gbits(rate: float) -> str:
    """A rate as a topology file writes it."""
    return f"{rate / GBIT:.12g} Gb/s"


def usual_rate(generation: int) -> float:
    """The rate of the adapters that are sold with a generation of GPUs, in bytes/s."""
    return (400 if generation >= 90 else 200 if generation >= 80 else 100) * GBIT


def nic(rate: float, network: str) -> Choice:
    """The adapter of a rate."""
    return _by_rate(_NICS, rate, network, "rate")


def cable(rate: float, network: str) -> Choice:
    """The cable of a rate between switches."""
    return _by_rate(_CABLES, rate, network, "rate")


def switch(rate: float, network: str) -> Choice:
    """The switch whose ports have this rate; no file names its latency."""
    return _by_rate(_SWITCHES, rate, network, "").because("the part, by the rate of its cables")


def transport(network: str) -> Choice:
    """The communication library for a kind of network."""
    why = "" if network in ("ib", "efa", "slingshot", "roce") else "the part: no file says how NCCL sends"
    return Choice(_TRANSPORTS.get(network, "nccl-ib"), assumed=why)


def network_of(transport: str | None) -> str:
    """The kind of network that a transport is for; empty if unknown."""
    return next((network for network, part in _TRANSPORTS.items() if part == transport), "")


def nvlink(generation: int, links: int) -> Choice:
    """The NVLinks of a GPU of a generation; with another number of links than the part's, at their rate."""
    known = generation if generation in _NVLINKS else 90
    part, usual, rate = _NVLINKS[known]
    changes: Values = {} if links == usual else {"rate": f"{links * rate:g} GB/s"}
    return Choice(part, changes, "" if known == generation else "rate of one link: no part is of this generation")


def nvlink_of_rate(rate: float) -> Choice:
    """The NVLinks of a GPU whose rate in one direction is nearest, at that rate."""
    rates = {part: links * each * 1e9 for part, links, each in _NVLINKS.values()}
    part = min(rates, key=lambda name: abs(rates[name] - rate))
    return Choice(part, {} if rates[part] == rate else {"rate": f"{rate / 1e9:.12g} GB/s"})


def generation_of(gpu: str, nvlink: Rate) -> int:
    """The generation of a GPU part, or of the one whose NVLink has this rate; 0 if neither is known."""
    family = gpu.partition("-")[0]
    if family in _FAMILIES:
        return _FAMILIES[family]
    by_rate = {links * each * 1e9: generation for generation, (_, links, each) in _NVLINKS.items()}
    return by_rate.get(nvlink or 0.0, 0)


def usual_nvlinks(generation: int) -> int:
    """The NVLinks of a GPU of an SXM board, 0 where none is known."""
    return _NVLINKS[generation][1] if generation in _NVLINKS else 0


def nvswitch(generation: int) -> Choice | None:
    """The NVSwitch of a generation, None where the catalogue has none."""
    part = _NVSWITCHES.get(generation)
    return Choice(part) if part else None


def pcie(rate: Rate, generation: int) -> Choice:
    """The PCIe link of a rate; assumed by the GPU's generation where the rate is not known."""
    if rate is None:
        return Choice(_PCIE_GENERATIONS.get(generation, "pcie4-x16"), assumed="the part, by the GPU")
    part = min(_PCIE, key=lambda name: abs(_PCIE[name] - rate))
    return Choice(part, {} if _PCIE[part] == rate else {"rate": f"{rate / 1e9:.12g} GB/s"})


def _by_rate(catalogue: dict[str, dict[int, str]], rate: float, network: str, key: str) -> Choice:
    """The part of a network with this rate, else the nearest one with its `key` changed to the rate."""
    family = {"roce": "ethernet", "tcp": "ethernet", "": "ib"}.get(network, network)
    parts = catalogue.get(family, catalogue["ethernet"])
    gbit = rate / GBIT
    nearest = min(parts, key=lambda known: abs(known - gbit))
    return Choice(parts[nearest], {key: gbits(rate)} if key and abs(nearest - gbit) > 1e-9 * gbit else {})
