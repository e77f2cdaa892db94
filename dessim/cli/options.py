"""Options that several verbs share, each with one help sentence, and the parsing of their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dessim.cli.output import to_draw, to_load, to_plot, to_read, to_write
from dessim.errors import DessimError, UnitError, UsageError
from dessim.trace.schema import COLLECTIVES
from dessim.units import parse_size
from dessim.wording import choose_from

if TYPE_CHECKING:
    from dessim.results.pages.earlier import Earlier

_LARGEST_SIZE = 2.0**60
"""Bytes; the chunks of larger sizes are too many to be counted in 64 bits."""


class Network(StrEnum):
    """The model of the network (dessim.sim.engine.simulate)."""

    FLUID = "fluid"
    PACKET = "packet"


class Fold(StrEnum):
    """Whether identical flows are simulated once; the result is the same."""

    ON = "on"
    OFF = "off"


def operation(text: str) -> str:
    """The name of a collective. An argument of an enum's type would put all names into one overlong line of --help."""
    if text not in COLLECTIVES:
        raise typer.BadParameter(f"{text!r} is no collective; {choose_from(text, COLLECTIVES)}.")
    return text


def _operations(incomplete: str) -> list[str]:
    return [op for op in COLLECTIVES if op.startswith(incomplete)]


OpArgument = Annotated[
    str,
    typer.Argument(
        help=f"One of {', '.join(COLLECTIVES)}.",
        metavar="OP",
        parser=operation,
        autocompletion=_operations,
        show_default=False,
    ),
]
CLUSTER_HELP = "Topology file, or a name from `dessim topo list`."
ClusterOption = Annotated[str, typer.Option("--cluster", help=CLUSTER_HELP)]
ClusterArgument = Annotated[str, typer.Argument(help=CLUSTER_HELP, show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
CsvOption = Annotated[Path | None, typer.Option("--csv", callback=to_write, help="Also write the rows as CSV.")]
FigureOption = Annotated[
    Path | None,
    typer.Option("--figure", callback=to_plot, help="Also draw the result as SVG, with its data as CSV beside it."),
]
GoldenOption = Annotated[
    Path | None,
    typer.Option("--golden", callback=to_write, help="Also record the question and its steps, for `dessim check`."),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option(
        "--html", callback=to_write, help="Also write one HTML page: answer, tables, figures with their data."
    ),
]
AgainstOption = Annotated[
    Path | None,
    typer.Option("--against", help="With --html: compare with an earlier result, a file that --json printed."),
]
FoldOption = Annotated[Fold, typer.Option("--fold", help="Simulate identical flows once; the result is the same.")]
NetworkOption = Annotated[
    Network, typer.Option("--network", help="fluid: max-min rates, any size; packet: gloo on a few ranks.")
]


class Launch(StrEnum):
    """How a GPU's kernels are launched."""

    EAGER = "eager"
    GRAPH = "graph"


IdsOption = Annotated[
    Path | None,
    typer.Option("--ids", callback=to_read, help="File of `dessim ids`: rows and laws of the model's tables, by name."),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision", help="Precision of dense layers, rows and wire, such as dense=bf16,rows=fp16,wire=fp16."
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", help="Device of every server in place of the cluster's: a part, or a file of des_ref.bench_ops."
    ),
]
LaunchOption = Annotated[
    Launch, typer.Option("--launch", help="Kernels launched one by one by the host, or in CUDA graphs.")
]
AlgorithmOption = Annotated[
    list[str] | None, typer.Option("--algorithm", help="OP=NAME sets the algorithm of a collective; may be repeated.")
]
WhatIfOption = Annotated[
    str | None,
    typer.Option(
        "--what-if",
        # The names are those of dessim.commands.questions.what_if.NAMES, which takes long to import.
        help="Also show the gain of each change alone, such as 2x:nic_rate,0:latency, or of some joined by +; or all. "
        "Names: nics, nic_rate, nvlink_rate, pcie_rate, uplink_rate, gpu_flops, gpu_memory, latency, overhead, "
        "flow_rate, reduction_rate, batch.",
    ),
]
TransportOption = Annotated[
    Path | None,
    typer.Option(
        "--transport",
        callback=to_load,
        help="Profile from `dessim calibrate`, or a shipped transport such as nccl-roce, in place of the cluster's.",
    ),
]
FaultsOption = Annotated[
    Path | None,
    typer.Option(
        "--faults", callback=to_read, help="TOML file of faults: links, switches, slow GPUs. Format: docs/faults.md."
    ),
]
DrawOption = Annotated[
    Path | None,
    typer.Option(
        "--draw", callback=to_draw, help="Also draw the cluster as SVG, links coloured by mean use; for a single run."
    ),
]
ServersOption = Annotated[
    str,
    typer.Option(
        help="ps_*: number of CPU hosts that hold the tables; auto: as many as the workers' hosts, as far as some are "
        "free; ideal: servers that answer at once, a lower bound."
    ),
]
ServerDeviceOption = Annotated[str, typer.Option(help="ps_*: device of a server, a name in topologies/parts/gpu.toml.")]
ServerThreadsOption = Annotated[int, typer.Option(help="ps_*: requests a server handles at the same time.", min=1)]
StalenessOption = Annotated[
    int | None, typer.Option(help="ps_async: steps a worker may lead the slowest by; default: no limit.", min=0)
]
JitterOption = Annotated[
    float, typer.Option(help="ps_*: sigma of the lognormal factor on compute, per worker and step.", min=0, max=3)
]
SeedOption = Annotated[int, typer.Option(help="Seed of --jitter.", min=0)]
TraceArgument = Annotated[Path, typer.Argument(help="Trace folder, NAME.trace.", show_default=False)]


def named(path: Path | None) -> str | None:
    """The name of a file or folder that an option gives."""
    return None if path is None else str(path)


def earlier_run(against: Path | None, html: Path | None, command: str) -> Earlier | None:
    """The earlier result of the same command that --against names. Raises UsageError for --against without a page."""
    if against is None:
        return None
    if html is None:
        raise UsageError(f"--against {against}: the page shows the comparison; add --html FILE")
    if not against.exists():
        raise DessimError(f"--against {against}: no such file")
    from dessim.results.pages.earlier import load_earlier

    return load_earlier(against, command)


def parse_names(text: str, flag: str) -> list[str]:
    """The entries of `a,b,c`, given as `flag`. Raises UsageError for an empty entry."""
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise UsageError(f"{flag} {text!r}: an empty entry; separate entries by single commas")
    _require_once(names, text, flag)
    return names


def _require_once(values: Sequence[str | int], text: str, flag: str) -> None:
    """Raise UsageError for a value that `text`, given as `flag`, names twice."""
    for number, value in enumerate(values):
        if value in values[:number]:
            raise UsageError(f"{flag} {text[:80]}: {str(value)[:40]} is named twice")


def _is_whole(text: str) -> bool:
    """Whether `text` is a whole number of at least 1, and of few enough digits to compute with."""
    return text.isascii() and text.isdecimal() and len(text) < 19 and int(text) > 0


def parse_counts(text: str, option: str = "--gpus") -> list[int]:
    """Numbers, as of GPUs, from `8,64,512`. Raises UsageError."""
    counts = []
    for part in parse_names(text, option):
        if not _is_whole(part):
            raise UsageError(f"{option} {part[:40]!r}: write whole numbers of at least 1, such as 8,64,512")
        counts.append(int(part))
    _require_once(counts, text, option)
    return counts


def parse_scales(text: str) -> list[int]:
    """Numbers of GPUs from `8,64` or from `8..1024`, which doubles from 8 up to 1024. Raises UsageError."""
    first, dots, last = text.partition("..")
    if not dots:
        return parse_counts(text)
    ends = parse_counts(first), parse_counts(last)
    if [len(counts) for counts in ends] != [1, 1]:
        raise UsageError(f"--gpus {text!r}: write a range such as 8..1024, or numbers such as 8,64")
    (low,), (high,) = ends
    if low > high:
        raise UsageError(f"--gpus {text!r}: write the smaller number first, such as 8..1024")
    doubled = [low * 2**i for i in range((high // low).bit_length())]
    return [*doubled, *([high] if doubled[-1] < high else [])]


def parse_batch(text: str) -> tuple[int, bool]:
    """The samples of a step, and whether they are those of each GPU: `65536`, `1024/gpu`. Raises UsageError."""
    number, slash, unit = text.partition("/")
    if not _is_whole(number) or (slash and unit != "gpu"):
        raise UsageError(
            f"--batch {text[:40]!r}: write the samples of all GPUs, such as 65536, or of each, such as 1024/gpu"
        )
    return int(number), bool(slash)


def parse_sides(text: str) -> tuple[int, ...]:
    """Sides of a torus from `16x8`; none from an empty text. Raises UsageError."""
    sides = text.split("x") if text else []
    if not all(map(_is_whole, sides)):
        raise UsageError(f"--dims {text!r}: write the sides of a torus, such as 16x8 or 4x4x4")
    return tuple(int(side) for side in sides)


def parse_sizes(text: str) -> list[float]:
    """Bytes from `1MiB,64MiB`. Raises UsageError."""
    sizes = [parse_quantity("--size", part, parse_size) for part in parse_names(text, "--size")]
    if max(sizes) > _LARGEST_SIZE:
        raise UsageError(f"--size {text[:40]!r}: at most 1 EiB, which is more than any job moves at once")
    return sizes


def parse_quantity(option: str, text: str, parse: Callable[[object], float]) -> float:
    """The value of an option with a unit. Raises UsageError."""
    try:
        return parse(text)
    except UnitError as error:
        raise UsageError(f"{option}: {error}") from None
