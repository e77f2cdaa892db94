"""The complete topology file, as a pydantic model of the keys that `topologies/README.md` describes.

All mistakes of a file are reported together, each with its key path.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from dessim.cluster import parts
from dessim.cluster.node import NodeBlock
from dessim.cluster.spec.direct_fabrics import DragonflyPlusTable, DragonflyTable, GraphTable, HyperXTable, TorusTable
from dessim.cluster.spec.gpu import GpuTable
from dessim.cluster.spec.parts import Count, LinkTable, Size, SwitchTable, Table, TransportTable, part_of
from dessim.cluster.spec.tiered_fabrics import (
    FatTreeTable,
    LeafSpineTable,
    NvlinkDomainTable,
    RailOnlyTable,
    RailTable,
    SingleSwitchTable,
)
from dessim.wording import in_words

NodeNumber = Annotated[int, Field(ge=0, strict=True)]


class NodeTable(Table):
    """`[node]`, or each `[[node]]`: the number of servers of a kind, and their parts."""

    count: Count
    gpus: Count
    nics: Count
    nic: Annotated[LinkTable, part_of("nic")]
    nvlink: Annotated[LinkTable | None, part_of("link")] = None
    nvswitch: Annotated[SwitchTable | None, part_of("switch")] = None
    pcie: Annotated[LinkTable | None, part_of("link")] = None
    pcie_switches: Count | None = None
    pcie_uplink: Annotated[LinkTable | None, part_of("link")] = None
    sockets: Count = 1
    socket_link: Annotated[LinkTable | None, part_of("link")] = None
    gpu: Annotated[GpuTable | None, part_of("gpu")] = None
    nvlink_wiring: Literal["switched", "pairwise", "cube_mesh"] = "switched"
    host_memory: Size | None = None

    @model_validator(mode="after")
    def _consistent(self) -> NodeTable:
        if self.gpus % self.nics:
            raise ValueError(f"nics = {self.nics} must divide gpus = {self.gpus}")
        if self.nics < self.gpus and self.pcie is None:
            raise ValueError(f"gpus = {self.gpus} share nics = {self.nics}; describe the link to a NIC as [node.pcie]")
        if self.nvswitch is not None and self.nvlink is None:
            raise ValueError("nvswitch without nvlink; describe the links to it as [node.nvlink]")
        if self.nvlink_wiring != "switched" and (self.nvlink is None or self.nvswitch is not None):
            raise ValueError(f"nvlink_wiring = {self.nvlink_wiring!r} needs nvlink, and no nvswitch")
        if self.pcie_switches is None:
            if self.pcie_uplink is not None or self.sockets > 1 or self.socket_link is not None:
                raise ValueError("pcie_uplink, sockets and socket_link need pcie_switches")
        elif self.pcie is None:
            raise ValueError("pcie_switches without pcie; describe the links to them as [node.pcie]")
        elif self.nics % self.pcie_switches or self.pcie_switches % self.sockets:
            raise ValueError(
                f"pcie_switches = {self.pcie_switches} must divide nics = {self.nics}, "
                f"and sockets = {self.sockets} must divide pcie_switches"
            )
        elif (self.sockets > 1) != (self.socket_link is not None):
            raise ValueError(
                f"sockets = {self.sockets}: [node.socket_link] is required with two or more sockets, and only then"
            )
        return self

    def build(self) -> parts.Node:
        uplink = self.pcie_uplink or self.pcie
        return parts.Node(
            gpus=self.gpus,
            nics=self.nics,
            nic=self.nic.build(),
            nvlink=self.nvlink.build() if self.nvlink else None,
            pcie=self.pcie.build() if self.pcie else None,
            nvswitch=self.nvswitch.build() if self.nvswitch else None,
            pcie_switches=self.pcie_switches or 0,
            pcie_uplink=uplink.build() if self.pcie_switches and uplink else None,
            sockets=self.sockets,
            socket_link=self.socket_link.build() if self.socket_link else None,
            gpu=self.gpu.build() if self.gpu else None,
            nvlink_wiring=self.nvlink_wiring,
            host_memory=self.host_memory,
        )


class OverrideTable(Table):
    """`[[override]]`: other parts for links between switches, given by name, or for the links of a range of nodes."""

    links: tuple[str, ...] = ()
    cable: Annotated[LinkTable | None, part_of("link")] = None
    nodes: tuple[NodeNumber, NodeNumber] | None = None
    nic: Annotated[LinkTable | None, part_of("nic")] = None
    nvlink: Annotated[LinkTable | None, part_of("link")] = None
    pcie: Annotated[LinkTable | None, part_of("link")] = None

    @model_validator(mode="after")
    def _one_or_the_other(self) -> OverrideTable:
        by_name = [bool(self.links), self.cable is not None]
        by_node = [self.nodes is not None, bool(self.node_parts())]
        if not ((all(by_name) and not any(by_node)) or (all(by_node) and not any(by_name))):
            raise ValueError("write links and cable, or nodes = [first, last] and some of nic, nvlink, pcie")
        return self

    def node_parts(self) -> dict[str, parts.Link]:
        """The new parts of links inside nodes, by key."""
        given = {"nic": self.nic, "nvlink": self.nvlink, "pcie": self.pcie}
        return {key: table.build() for key, table in given.items() if table is not None}


FABRIC_KINDS = (
    "single_switch",
    "leaf_spine",
    "rail_optimised",
    "rail_only",
    "fat_tree",
    "nvlink_domain",
    "torus",
    "dragonfly",
    "dragonfly_plus",
    "hyperx",
    "graph",
)
SCALE_OUT_KINDS = ("leaf_spine", "rail_optimised", "fat_tree")
_TIERS = SingleSwitchTable | LeafSpineTable | RailTable | RailOnlyTable | FatTreeTable | NvlinkDomainTable
_DIRECT = TorusTable | DragonflyTable | DragonflyPlusTable | HyperXTable | GraphTable
NODE_TAGS = ("table", "list")
_Nodes = Annotated[
    Annotated[NodeTable, Tag("table")] | Annotated[tuple[NodeTable, ...], Field(min_length=1), Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "table"),
]


class TopologyFile(Table):
    """A complete topology file."""

    name: str = ""
    description: str = ""
    gpu: Annotated[GpuTable, part_of("gpu")]
    transport: Annotated[TransportTable, part_of("transport")]
    node: _Nodes
    fabric: Annotated[_TIERS | _DIRECT, Field(discriminator="kind")]
    override: tuple[OverrideTable, ...] = ()

    @model_validator(mode="after")
    def _fabric_fits_nodes(self) -> TopologyFile:
        for node in self.nodes:
            problem = self.fabric.problem(self.n_nodes, node.nics, node.nvlink is not None)
            if problem:
                raise ValueError(f"fabric: {problem}")
        return self

    @property
    def nodes(self) -> tuple[NodeTable, ...]:
        """Each kind of server."""
        return self.node if isinstance(self.node, tuple) else (self.node,)

    @property
    def n_nodes(self) -> int:
        """Number of servers of all kinds."""
        return sum(node.count for node in self.nodes)

    def blocks(self) -> list[NodeBlock]:
        """The servers, one block for each kind, with the number of trays that the fabric sets."""
        blocks: list[NodeBlock] = []
        for table in self.nodes:
            node = replace(table.build(), trays=self.fabric.trays)
            blocks.append(blocks[-1].followed_by(node, table.count) if blocks else NodeBlock(node, table.count))
        return blocks


def problems(error: ValidationError) -> str:
    """Return all mistakes in one line, such as `fabric.spines: missing; node.nic.rate: bandwidth needs a unit, ...`."""
    lines = []
    for mistake in error.errors(include_url=False, include_context=False, include_input=False):
        # pydantic inserts the tag of a union that it chose, such as the kind of fabric, into the path of keys.
        path = mistake["loc"]
        tag_positions = {i + 1 for i, key in enumerate(path) if key in ("fabric", "scale_out", "node")}
        tags = (*FABRIC_KINDS, *NODE_TAGS)
        keys = [str(key) for i, key in enumerate(path) if i not in tag_positions or key not in tags]
        message = in_words(mistake)
        if mistake["type"].startswith("union_tag"):
            kinds = FABRIC_KINDS if path[-1] == "fabric" else SCALE_OUT_KINDS
            keys.append("kind")
            message = f"must be one of {', '.join(kinds)}"
        lines.append(f"{'.'.join(keys)}: {message}" if keys else message)
    return "; ".join(lines)
