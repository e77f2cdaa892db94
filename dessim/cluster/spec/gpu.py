"""`[gpu]` of a topology file: peak rates by precision, memory, and the properties of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from dessim.cluster import parts
from dessim.cluster.kernels import Curve, Kernels
from dessim.cluster.spec.parts import Count, Deviation, Flops, Part, Rate, Seconds, Share, Size, Table, Watts
from dessim.compute import Precision
from dessim.errors import UnitError
from dessim.units import parse_size


def _by_precision(value: object) -> object:
    """A validator that turns one value into a table with that value for fp32."""
    return value if isinstance(value, Mapping) else {Precision.FP32: value}


def _row_curve(value: object) -> Curve:
    """A validator for pairs [bytes of a row, share of the memory bandwidth], as in `Kernels.gather`."""
    if not isinstance(value, list | tuple) or not value or not all(_is_pair(point) for point in value):
        raise ValueError(f'{value!r} is not a list of [row, share]; write for example [["64 B", 0.4], ["256 B", 0.8]]')
    try:
        points = tuple((parse_size(row), float(share)) for row, share in value)
    except UnitError as error:
        raise ValueError(str(error)) from None
    for (row, _), (next_row, _) in pairwise(((0.0, 0.0), *points)):
        if next_row <= row:
            raise ValueError(f"rows must be longer than 0 B and ascending, not {next_row:g} B after {row:g} B")
    for (_, share), (row, next_share) in pairwise(((0.0, 0.0), *points)):
        if not 0 < next_share <= 1:
            raise ValueError(f"the share of rows of {row:g} B must be more than 0 and at most 1, not {next_share:g}")
        if next_share < share:
            raise ValueError(f"longer rows cannot be slower: {next_share:g} for {row:g} B after {share:g}")
    return points


def _is_pair(point: object) -> bool:
    return isinstance(point, list | tuple) and len(point) == 2 and type(point[1]) in (int, float)


FlopsByPrecision = Annotated[dict[Precision, Flops], BeforeValidator(_by_precision)]
ShareByPrecision = Annotated[dict[Precision, Share], BeforeValidator(_by_precision)]
RowCurve = Annotated[Curve, BeforeValidator(_row_curve)]


class KernelsTable(Table):
    """`[gpu.kernels]`."""

    processors: Count
    tile: Count = 128
    floor: Seconds
    graph_launch: Seconds | None = None
    gather: RowCurve
    pool: RowCurve
    scatter: RowCurve

    def build(self) -> Kernels:
        return Kernels(**dict(self))


class GpuTable(Part):
    """`[gpu]`. Without `comm_sm_share` collectives take no processors from compute; `host_bandwidth` overrides PCIe.

    `flops` and `efficiency_flops` are one value, or one for each precision; a single `flops` holds for all of them.
    """

    flops: FlopsByPrecision
    memory_bandwidth: Rate
    memory: Size
    launch_overhead: Seconds
    efficiency_flops: ShareByPrecision
    efficiency_memory: Share
    comm_sm_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    host_bandwidth: Rate | None = None
    architecture: Literal["", "volta", "ampere", "hopper", "blackwell"] = ""
    spread: Deviation | None = None
    power: Watts | None = None
    variation: Deviation = 0.0
    shared_cores: Count | None = None
    kernels: KernelsTable | None = None

    @model_validator(mode="after")
    def _rates_are_complete(self) -> GpuTable:
        if Precision.FP32 not in self.flops:
            raise ValueError('flops needs fp32, such as flops = {fp32 = "19.5 TFLOP/s", bf16 = "312 TFLOP/s"}')
        if Precision.FP32 not in self.efficiency_flops:
            raise ValueError("efficiency_flops needs fp32, which also stands for precisions that it does not list")
        for precision in self.efficiency_flops:
            if len(self.flops) > 1 and precision not in self.flops:
                raise ValueError(f"efficiency_flops.{precision}: flops states no rate for {precision}")
        return self

    def build(self) -> parts.Gpu:
        share = self.efficiency_flops[Precision.FP32]
        rates = tuple((name, flops, self.efficiency_flops.get(name, share)) for name, flops in self.flops.items())
        values: dict[str, Any] = dict(self) | {
            "flops": self.flops[Precision.FP32],
            "efficiency_flops": share,
            "peaks": rates if len(rates) > 1 else (),
            "kernels": self.kernels.build() if self.kernels else None,
        }
        return parts.Gpu(**values)
