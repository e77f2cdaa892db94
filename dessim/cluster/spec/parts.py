"""Quantities and parts in a topology file, as pydantic models of every key that a user can write.

Unknown keys are refused, and every quantity needs a unit. A part (`gpu`, `nic`, `switch`, ...) is the name of a
catalogue entry, a complete table, or `{part = "name", key = value}`: a catalogue entry with some keys changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from dessim.cluster import parts
from dessim.cluster.curves import Curve
from dessim.cluster.spread import MOST_GPUS, Spread
from dessim.errors import UnitError
from dessim.units import parse_bandwidth, parse_flops, parse_power, parse_share, parse_size, parse_time
from dessim.wording import did_you_mean

Catalogue = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Category (`gpu`, `link`, ...) -> part name -> its table, as read from TOML."""


def quantity(parse: Callable[[object], float], *, positive: bool) -> BeforeValidator:
    """A validator from text with a unit to a float in SI units, of which 0 is refused if it must be `positive`."""

    def convert(value: object) -> float:
        try:
            number = parse(value)
        except UnitError as error:
            raise ValueError(str(error)) from None  # pydantic collects only ValueError
        if positive and number == 0:
            raise ValueError(f"{value!r} must be more than 0")
        return number

    return BeforeValidator(convert)


def part_of(category: str) -> BeforeValidator:
    """A validator from the name of a part, or `part = "name"` with changes, to the table of the part."""

    def look_up(name: object, info: ValidationInfo) -> dict[str, Any]:
        parts_by_name: Mapping[str, Mapping[str, Any]] = (info.context or {}).get(category, {})
        if not isinstance(name, str) or name not in parts_by_name:
            listed = ", ".join(parts_by_name) or "none"
            hint = did_you_mean(str(name), parts_by_name)
            raise ValueError(f"{category} part {name!r} is unknown; {hint}known: {listed}; or write a table")
        return {"name": name, **parts_by_name[name]}

    def resolve(value: object, info: ValidationInfo) -> object:
        if isinstance(value, str):
            return look_up(value, info)
        if isinstance(value, dict) and "part" in value:
            part = look_up(value["part"], info)
            return {**part, **{key: _changed(key, part, change) for key, change in value.items() if key != "part"}}
        return value

    return BeforeValidator(resolve)


def _changed(key: str, part: Mapping[str, Any], change: object) -> object:
    """The changed key of a part; a changed `nccl` table keeps the keys that the change does not name."""
    kept = part.get(key) if key == "nccl" else None
    return {**kept, **change} if isinstance(kept, dict) and isinstance(change, dict) else change


def _fan_in_curve(value: object) -> tuple[tuple[float, float], ...]:
    """A validator for pairs (number of flows, share), as in `dessim.cluster.parts.Transport.fan_in`."""
    if not isinstance(value, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in value):
        raise ValueError(f"{value!r} is not a list of [flows, share]; write for example [[1, 1.0], [4, 0.8]]")
    if not value or value[0][0] != 1:
        raise ValueError("the first entry must be for 1 flow, for example [1, 1.0]")
    previous_flows = 0
    previous_share = 1.0
    for flows, share in value:
        if type(flows) is not int or flows <= previous_flows:
            raise ValueError(f"numbers of flows must be whole and ascending, not {flows!r} after {previous_flows}")
        if type(share) not in (int, float) or not 0 < share <= 1:
            raise ValueError(f"the share of {flows} flows must be more than 0 and at most 1, not {share!r}")
        if share > previous_share:
            raise ValueError(
                f"more flows cannot get more: {share} for {flows} after {previous_share} for {previous_flows}"
            )
        previous_flows = flows
        previous_share = share
    return tuple((float(flows), float(share)) for flows, share in value)


Rate = Annotated[float, quantity(parse_bandwidth, positive=True)]
Seconds = Annotated[float, quantity(parse_time, positive=False)]
Size = Annotated[float, quantity(parse_size, positive=True)]
Flops = Annotated[float, quantity(parse_flops, positive=True)]
Watts = Annotated[float, quantity(parse_power, positive=True)]
Percent = Annotated[float, quantity(parse_share, positive=False)]
Share = Annotated[float, Field(gt=0, le=1)]
FanInCurve = Annotated[tuple[tuple[float, float], ...], BeforeValidator(_fan_in_curve)]
Count = Annotated[int, Field(ge=1, le=10**9, strict=True)]
Deviation = Annotated[float, Field(ge=0, le=5, allow_inf_nan=False)]
"""A standard deviation of a logarithm."""
Bands = tuple[Deviation, Deviation, Deviation]
"""Those of sizes up to 64 KiB, to 8 MiB and above."""


class Table(BaseModel):
    """Base of all tables; it refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Part(Table):
    """Base of all parts; each must state the source of its numbers."""

    name: str = "inline"
    source: str = Field(min_length=1)
    assumed: str = ""


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


class SpreadTable(Table):
    """`[transport.spread]`: by op, or `other`, the spread up to 64 KiB, to 8 MiB and above (dessim.cluster.spread).

    `gpus` is the largest number of GPUs of the readings that gave it, `more` the spread before a calibration,
    which counts for more GPUs.
    """

    inside: dict[str, Bands] = Field(default_factory=dict)
    between: dict[str, Bands] = Field(default_factory=dict)
    gpus: Count = MOST_GPUS
    more: SpreadTable | None = None

    def build(self) -> Spread:
        return Spread(self.inside, self.between, self.gpus, self.more.build() if self.more is not None else None)


Factor = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]


def _ascending(points: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """Points of a curve, whose sizes must ascend."""
    for (before, _), (size, _) in pairwise(points):
        if size <= before:
            raise ValueError(f"sizes must ascend: {size:.0f} B follows {before:.0f} B")
    return points


class CurveTable(Table):
    """`[[transport.nccl.curves]]`: measured over predicted time of an op on one shape (dessim.cluster.curves)."""

    op: str
    gpus: Annotated[int, Field(ge=2, strict=True)]
    servers: Count
    gpus_per_process: Count = 1
    points: Annotated[tuple[tuple[Size, Factor], ...], Field(min_length=1), AfterValidator(_ascending)]
    spread: Bands | None = None

    def build(self) -> Curve:
        return Curve(**self.model_dump())


def _once(curves: tuple[CurveTable, ...]) -> tuple[CurveTable, ...]:
    """Curves, of which an op and shape may have one."""
    seen: list[tuple[str, int, int, int]] = []
    for curve in curves:
        shape = curve.build().shape
        if shape in seen:
            raise ValueError(f"{curve.op} on {curve.gpus} GPUs of {curve.servers} servers has two curves; keep one")
        seen.append(shape)
    return curves


class NcclTable(Table):
    """`[transport.nccl]`: the kind of network, factors on the constants of dessim.collectives.nccl, and curves."""

    network: Literal["ib", "roce", "tcp", "efa", "tcpxo", "slingshot"]
    version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+(\.[0-9]+)*$")] = "2.29"
    amd: Annotated[bool, Field(strict=True)] = False
    collnet: Annotated[bool, Field(strict=True)] = False
    factors: dict[str, Factor | dict[str, Factor]] = Field(default_factory=dict)
    curves: Annotated[tuple[CurveTable, ...], AfterValidator(_once)] = ()

    def build(self) -> parts.Nccl:
        curves = tuple(curve.build() for curve in self.curves)
        return parts.Nccl(**self.model_dump(exclude={"curves"}), curves=curves)


class TransportTable(Part):
    """`[transport]`. A key that is left out sets no limit.

    Summing is then never the bottleneck, any algorithm may be used, one flow may fill a NIC, and flows that arrive
    through one NIC lose nothing.
    """

    message_overhead: Seconds
    op_overhead: Seconds
    reduction_rate: Rate = math.inf
    algorithms: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    flow_rate: Rate = math.inf
    fan_in: FanInCurve = ()
    ack_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    burst: Annotated[float, quantity(parse_size, positive=False)] = 0.0
    host_overhead: Seconds = 0.0
    core_rate: Rate = math.inf
    window: Size = math.inf
    nccl: NcclTable | None = None
    spread: SpreadTable | None = None

    def build(self) -> parts.Transport:
        nccl = self.nccl.build() if self.nccl is not None else None
        spread = self.spread.build() if self.spread is not None else None
        return parts.Transport(**self.model_dump(exclude={"nccl", "spread"}), nccl=nccl, spread=spread)
