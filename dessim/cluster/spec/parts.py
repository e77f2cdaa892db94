"""What a topology file may say of quantities and parts: pydantic models with every key a user can write.

Unknown keys are refused, every quantity carries its unit, and a part (`gpu`, `nic`, `switch`, ...) is the name of a
catalogue entry, a table of its own, or `{part = "name", key = value}`: a catalogue entry with some keys changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from dessim.cluster import parts
from dessim.errors import UnitError
from dessim.units import parse_bandwidth, parse_flops, parse_share, parse_size, parse_time

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


def part_of(category: str) -> BeforeValidator:
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
Percent = Annotated[float, _quantity(parse_share, positive=False)]
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
    ack_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    burst: Annotated[float, _quantity(parse_size, positive=False)] = 0.0
    host_overhead: Seconds = 0.0
    core_rate: Rate = math.inf
    window: Size = math.inf

    def build(self) -> parts.Transport:
        return parts.Transport(**self.model_dump())
