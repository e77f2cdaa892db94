"""What a topology file may say: pydantic models with every key a user can write.

The format is described in `topologies/README.md`. Unknown keys are refused, every quantity carries its unit, and a part
(`gpu`, `nic`, `switch`, ...) is the name of a catalogue entry, a table of its own, or `{part = "name", key = value}`: a
catalogue entry with some keys changed. All mistakes of a file are reported together, each with its key path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from dessim.cluster import parts
from dessim.cluster.policy import Routing
from dessim.errors import UnitError
from dessim.units import parse_bandwidth, parse_flops, parse_size, parse_time

Catalogue = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Category (`gpu`, `link`, ...) -> part name -> its table, as read from TOML."""


def _quantity(parse: Callable[[object], float], *, positive: bool) -> BeforeValidator:
    """Text with a unit -> SI float; pydantic wants its complaints as ValueError."""

    def convert(value: object) -> float:
        try:
            number = parse(value)
        except UnitError as error:
            raise ValueError(str(error)) from None
        if positive and number == 0:
            raise ValueError(f"{value!r} must be more than 0")
        return number

    return BeforeValidator(convert)


def _part(category: str) -> BeforeValidator:
    """A part's name, or `part = "name"` with changes, -> the table of the part."""

    def look_up(name: object, info: ValidationInfo) -> dict[str, Any]:
        known: Mapping[str, Mapping[str, Any]] = (info.context or {}).get(category, {})
        if not isinstance(name, str) or name not in known:
            listed = ", ".join(known) or "none"
            raise ValueError(f"{category} part {name!r} is unknown; known: {listed}; or write a table")
        return {"name": name, **known[name]}

    def resolve(value: object, info: ValidationInfo) -> object:
        if isinstance(value, str):
            return look_up(value, info)
        if isinstance(value, dict) and "part" in value:
            return {**look_up(value["part"], info), **{k: v for k, v in value.items() if k != "part"}}
        return value

    return BeforeValidator(resolve)


def _curve(value: object) -> tuple[tuple[float, float], ...]:
    """Pairs (number of flows, share), as `dessim.cluster.parts.Transport.fan_in` has them."""
    if not isinstance(value, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in value):
        raise ValueError(f"{value!r} is no list of [flows, share]; write for example [[1, 1.0], [4, 0.8]]")
    if not value or value[0][0] != 1:
        raise ValueError("the first entry must be for 1 flow, for example [1, 1.0]")
    before, more = 0, 1.0
    for flows, share in value:
        if type(flows) is not int or flows <= before:
            raise ValueError(f"numbers of flows must be whole and rise, not {flows!r} after {before}")
        if type(share) not in (int, float) or not 0 < share <= 1:
            raise ValueError(f"the share of {flows} flows must be more than 0 and at most 1, not {share!r}")
        if share > more:
            raise ValueError(f"more flows cannot get more: {share} for {flows} after {more} for {before}")
        before, more = flows, share
    return tuple((float(flows), float(share)) for flows, share in value)


Rate = Annotated[float, _quantity(parse_bandwidth, positive=True)]
Seconds = Annotated[float, _quantity(parse_time, positive=False)]
Size = Annotated[float, _quantity(parse_size, positive=True)]
Flops = Annotated[float, _quantity(parse_flops, positive=True)]
Share = Annotated[float, Field(gt=0, le=1)]
Curve = Annotated[tuple[tuple[float, float], ...], BeforeValidator(_curve)]
Count = Annotated[int, Field(ge=1, strict=True)]


class Table(BaseModel):
    """Base of all tables: unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Part(Table):
    """A table with numbers from somewhere: it must say from where."""

    name: str = "inline"
    source: str = Field(min_length=1)
    assumed: str = ""


class GpuTable(Part):
    """`[gpu]`; without `comm_sm_share` collectives take nothing from compute; `host_bandwidth` overrides PCIe."""

    flops: Flops
    memory_bandwidth: Rate
    memory: Size
    launch_overhead: Seconds
    efficiency_flops: Share
    efficiency_memory: Share
    comm_sm_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    host_bandwidth: Rate | None = None

    def build(self) -> parts.Gpu:
        return parts.Gpu(**self.model_dump())


class LinkTable(Part):
    """`[node.nic]`, `[node.nvlink]`, `[node.pcie]`, `[fabric.uplink]`."""

    rate: Rate
    efficiency: Share
    latency: Seconds

    def build(self) -> parts.Link:
        return parts.Link(**self.model_dump())


class SwitchTable(Part):
    """`[fabric.switch]`, `[node.nvswitch]`."""

    ports: Count
    latency: Seconds
    reduces: Annotated[bool, Field(strict=True)] = False

    def build(self) -> parts.Switch:
        return parts.Switch(**self.model_dump())


class TransportTable(Part):
    """`[transport]`; a limit that is left out is none: summing is never the bottleneck, any algorithm may be used, one
    flow may fill a NIC, and as many as like may meet there."""

    message_overhead: Seconds
    op_overhead: Seconds
    reduction_rate: Rate = math.inf
    algorithms: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    flow_rate: Rate = math.inf
    fan_in: Curve = ()

    def build(self) -> parts.Transport:
        return parts.Transport(**self.model_dump())


class NodeTable(Table):
    """`[node]`: how many servers, and what is in each."""

    count: Count
    gpus: Count
    nics: Count
    nic: Annotated[LinkTable, _part("nic")]
    nvlink: Annotated[LinkTable | None, _part("link")] = None
    nvswitch: Annotated[SwitchTable | None, _part("switch")] = None
    pcie: Annotated[LinkTable | None, _part("link")] = None

    @model_validator(mode="after")
    def _consistent(self) -> NodeTable:
        if self.gpus % self.nics:
            raise ValueError(f"nics = {self.nics} must divide gpus = {self.gpus}")
        if self.nics < self.gpus and self.pcie is None:
            raise ValueError(f"gpus = {self.gpus} share nics = {self.nics}; describe the way to a NIC as [node.pcie]")
        if self.nvswitch is not None and self.nvlink is None:
            raise ValueError("nvswitch without nvlink; describe the links to it as [node.nvlink]")
        return self

    def build(self) -> parts.Node:
        return parts.Node(
            gpus=self.gpus,
            nics=self.nics,
            nic=self.nic.build(),
            nvlink=self.nvlink.build() if self.nvlink else None,
            pcie=self.pcie.build() if self.pcie else None,
            nvswitch=self.nvswitch.build() if self.nvswitch else None,
        )


class RoutedTable(Table):
    """Keys of every fabric that offers more than one way."""

    routing: Literal["split", "static", "ecmp", "adaptive"] = "split"
    routing_seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0
    flows_per_pair: Count = 1

    @model_validator(mode="after")
    def _meant(self) -> RoutedTable:
        if self.routing_seed and self.routing != "ecmp":
            raise ValueError(f'routing_seed means something to routing = "ecmp" only, not "{self.routing}"')
        if self.flows_per_pair > 1 and self.routing not in ("ecmp", "adaptive"):
            raise ValueError(f'flows_per_pair is for routing = "ecmp" or "adaptive", not "{self.routing}"')
        return self

    def route(self) -> Routing:
        return Routing(self.routing, self.routing_seed, self.flows_per_pair)


class SingleSwitchTable(Table):
    """`[fabric] kind = "single_switch"`."""

    kind: Literal["single_switch"]
    switch: Annotated[SwitchTable | None, _part("switch")] = None


class TieredTable(RoutedTable):
    """Keys that all fabrics of several tiers share."""

    links_per_spine: Count = 1
    uplink: Annotated[LinkTable, _part("link")]
    switch: Annotated[SwitchTable | None, _part("switch")] = None


class TwoTierTable(TieredTable):
    """Keys that all fabrics of leaves and spines share."""

    spines: Count


class LeafSpineTable(TwoTierTable):
    """`[fabric] kind = "leaf_spine"`."""

    kind: Literal["leaf_spine"]
    nodes_per_leaf: Count


class RailTable(TwoTierTable):
    """`[fabric] kind = "rail_optimised"`."""

    kind: Literal["rail_optimised"]
    nodes_per_pod: Count
    rail_aware: Annotated[bool, Field(strict=True)] = True


class FatTreeTable(TieredTable):
    """`[fabric] kind = "fat_tree"`; without `core_uplink` the cables to the cores are like those to the spines."""

    kind: Literal["fat_tree"]
    nodes_per_leaf: Count
    leaves_per_pod: Count
    spines_per_pod: Count
    cores_per_spine: Count
    links_per_core: Count = 1
    core_uplink: Annotated[LinkTable | None, _part("link")] = None


FABRIC_KINDS = ("single_switch", "leaf_spine", "rail_optimised", "fat_tree")


class TopologyFile(Table):
    """A whole topology file."""

    name: str = ""
    description: str = ""
    gpu: Annotated[GpuTable, _part("gpu")]
    transport: Annotated[TransportTable, _part("transport")]
    node: NodeTable
    fabric: Annotated[SingleSwitchTable | LeafSpineTable | RailTable | FatTreeTable, Field(discriminator="kind")]


def problems(error: ValidationError) -> str:
    """All mistakes of a file in one line: `fabric.spines: missing; node.nic.rate: bandwidth needs a unit, ...`."""
    lines = []
    for mistake in error.errors(include_url=False, include_context=False, include_input=False):
        # pydantic puts the chosen fabric kind into the path; the user never wrote it there
        keys = [str(key) for i, key in enumerate(mistake["loc"]) if not (i == 1 and key in FABRIC_KINDS)]
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "missing":
            message = "missing"
        elif mistake["type"] == "extra_forbidden":
            message = "unknown key"
        elif mistake["type"].startswith("union_tag"):
            keys, message = ["fabric", "kind"], f"must be one of {', '.join(FABRIC_KINDS)}"
        lines.append(f"{'.'.join(keys)}: {message}" if keys else message)
    return "; ".join(lines)
