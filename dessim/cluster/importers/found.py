"""The content of a description in another format: switches, cables and servers as the file states them.

A rate is in bytes/s and without line coding, as in topology files; None stands for what the file does not say.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

Rate = float | None
Bundle = tuple[tuple[Rate, int], ...]
"""The parallel cables between two switches: rates with the number of cables of each."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a server's adapter and the switch at the other end of its cable."""

    name: str
    switch: str
    rate: Rate = None


@dataclass(frozen=True, slots=True)
class Host:
    """A server and its cabled ports, in the order of its adapters."""

    name: str
    ports: tuple[Port, ...]

    @property
    def switches(self) -> tuple[str, ...]:
        """The switch of each port."""
        return tuple(port.switch for port in self.ports)


@dataclass(frozen=True, slots=True)
class Nic:
    """A network adapter of a server; `network` is a kind of `[transport.nccl]`, or empty."""

    name: str
    rate: Rate = None
    network: str = ""


@dataclass(frozen=True, slots=True)
class FoundNode:
    """One server.

    `gpu` is a part of the catalogue with its changed keys, None where the file names none. `generation` is the compute
    capability times ten, such as 90, or 0. Each GPU has `nvlinks` NVLinks, wired as in `[node] nvlink_wiring`, or
    `nvlink_rate` is that of all of them in bytes/s. `pcie` is the rate of a GPU's PCIe link. Without NVLink,
    `pcie_switches` and `sockets` are set where the file shows them. `left_out` are sentences on what the file has and
    the result lacks, `assumed` on what the importer had to guess.
    """

    gpus: int
    nics: tuple[Nic, ...]
    gpu: dict[str, str] | None = None
    generation: int = 0
    nvlinks: int = 0
    wiring: str = "switched"
    pcie: Rate = None
    nvlink_rate: Rate = None
    pcie_switches: int = 0
    sockets: int = 1
    left_out: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundFabric:
    """Switches, the cables between them by the pair of their names in order, and servers.

    `network` is `ib`, `ethernet`, or empty where the file does not say. `left_out` are sentences on what the file has
    and the result lacks, `assumed` on what the importer had to add. In a `logical` fabric each server has one port,
    which stands for all of its adapters; with `cables_per_adapter` there are as many cables for each of these.
    `node` is the server, where the file describes it too.
    """

    switches: tuple[str, ...]
    cables: Mapping[tuple[str, str], Bundle]
    hosts: tuple[Host, ...]
    network: str = ""
    left_out: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    logical: bool = False
    cables_per_adapter: bool = False
    node: FoundNode | None = None


def bundle_of(rates: list[Rate]) -> Bundle:
    """The bundle of cables with these rates, fastest first."""
    return tuple(sorted(Counter(rates).items(), key=lambda item: -(item[0] or 0.0)))


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """A key that sorts names by the numbers in them: node2 before node10."""
    pieces = re.findall(r"[0-9]{1,18}|[^0-9]+", name)
    return tuple((0, int(piece)) if piece.isdecimal() else (1, piece) for piece in pieces)


def unused_adapters(names: list[str]) -> tuple[str, ...]:
    """The sentence on adapters of a server that are left out, if there are any."""
    return (f"adapters of the server that carry no traffic of GPUs: {', '.join(names)}",) if names else ()


def undivided(kept: int, gpus: int, names: list[str]) -> str:
    """The message where `kept` adapters cannot serve `gpus` GPUs evenly; `names` are those to choose from."""
    listed = ", ".join(names) or "none"
    return f"{kept} adapters do not divide {gpus} GPUs; choose among {listed} with --nics"
