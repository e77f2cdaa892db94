"""What verbs of the command line share: their options, and how a user's texts become values."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dessim.errors import UnitError, UsageError
from dessim.trace.schema import Collective
from dessim.units import parse_size


class Fold(StrEnum):
    """Whether identical flows are simulated once; the answer is the same."""

    ON = "on"
    OFF = "off"


class Op(StrEnum):
    """Collectives that can be run on their own."""

    ALL_REDUCE = "all_reduce"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_GATHER = "all_gather"
    ALL_TO_ALL = "all_to_all"
    BROADCAST = "broadcast"
    REDUCE = "reduce"
    GATHER = "gather"
    SCATTER = "scatter"
    SEND_RECV = "send_recv"


ClusterOption = Annotated[str, typer.Option("--cluster", help="Topology file, or a name from `dessim topo list`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
FoldOption = Annotated[Fold, typer.Option("--fold", help="Simulate identical flows once (same answer either way).")]
AlgorithmOption = Annotated[
    list[str] | None, typer.Option("--algorithm", help="OP=NAME fixes a collective's algorithm; may be repeated.")
]
WhatIfOption = Annotated[
    str | None,
    typer.Option(
        "--what-if",
        # Names as in dessim.commands.support.what_if.NAMES, which is slow to import.
        help="What changes would buy, each alone, such as 2x:nic_rate,2x:gpu_flops,0:latency; or all. Names: "
        "nic_rate, nvlink_rate, pcie_rate, uplink_rate, gpu_flops, gpu_memory, latency, overhead, flow_rate, "
        "reduction_rate, batch.",
    ),
]
TransportOption = Annotated[
    Path | None,
    typer.Option("--transport", help="Profile that `dessim calibrate` wrote, in place of the cluster's transport."),
]
FaultsOption = Annotated[
    Path | None,
    typer.Option("--faults", help="TOML file of what goes wrong: links, switches, slow GPUs; format: docs/faults.md."),
]
DrawOption = Annotated[
    Path | None,
    typer.Option("--draw", help="Also draw the cluster as SVG, links coloured by their mean use; of one run only."),
]
ServersOption = Annotated[
    int | None, typer.Option(help="ps_*: CPU hosts that keep the tables, on the hosts after the workers'.", min=1)
]
ServerDeviceOption = Annotated[str, typer.Option(help="ps_*: what serves, a name in topologies/parts/gpu.toml.")]
ServerThreadsOption = Annotated[int, typer.Option(help="ps_*: requests a server works on at a time.", min=1)]
StalenessOption = Annotated[
    int | None, typer.Option(help="ps_async: steps a worker may be ahead of the slowest; default: any.", min=0)
]
JitterOption = Annotated[
    float, typer.Option(help="ps_*: sigma of the lognormal by which compute varies, worker and step.", min=0, max=3)
]
SeedOption = Annotated[int, typer.Option(help="Seed of --jitter.", min=0)]
TraceArgument = Annotated[Path, typer.Argument(help="Trace folder, NAME.trace.", show_default=False)]


def parse_names(text: str, flag: str) -> list[str]:
    """The entries of `a,b,c`, as given for `flag`."""
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise UsageError(f"{flag} {text!r}: an empty entry; separate entries by single commas")
    return names


def parse_counts(text: str) -> list[int]:
    """Numbers of GPUs from `8,64,512`."""
    counts = []
    for part in parse_names(text, "--gpus"):
        if not part.isdecimal() or int(part) < 1:
            raise UsageError(f"--gpus {part!r}: write whole numbers of at least 1, such as 8,64,512")
        counts.append(int(part))
    return counts


def parse_sides(text: str) -> tuple[int, ...]:
    """Sides of a torus from `16x8`; none from an empty text."""
    sides = text.split("x") if text else []
    if not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise UsageError(f"--dims {text!r}: write the sides of a torus, such as 16x8 or 4x4x4")
    return tuple(int(side) for side in sides)


def parse_sizes(text: str) -> list[float]:
    """Bytes from `1MiB,64MiB`."""
    try:
        return [parse_size(part) for part in parse_names(text, "--size")]
    except UnitError as error:
        raise UsageError(f"--size: {error}") from None


def parse_algorithms(texts: list[str] | None) -> dict[Collective, str]:
    """The algorithm of each collective that `OP=NAME` texts name."""
    chosen = {}
    for text in texts or ():
        op, equals, name = text.partition("=")
        if not equals or op not in list(Op):
            raise UsageError(f"--algorithm {text!r}: write OP=NAME, such as all_reduce=ring")
        chosen[Collective(op)] = name
    return chosen
