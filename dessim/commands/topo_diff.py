"""Differences between two clusters: parts, rates and counts, key by key, and the figures that follow from them.

Names, descriptions and sources are not compared. Links of a graph are compared by the switches they join, whether the
topology file lists them or a GraphML file does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dessim.cluster import describe
from dessim.cluster.load import build_cluster, load_topology
from dessim.cluster.spec.direct_fabrics import GraphTable
from dessim.cluster.spec.topology_file import TopologyFile
from dessim.cluster.spread import BAND_NAMES
from dessim.errors import ClusterError
from dessim.units import format_bandwidth, format_count, format_size, format_time

_DIGITS = 9
_PROSE = ("description", "source", "assumed")
_FIGURES = ("gpus", "nodes", "switches", "oversubscription", "bisection_GBps")
_UNITS: dict[str, Callable[[float, int], str]] = {
    **dict.fromkeys(("rate", "memory_bandwidth", "host_bandwidth"), format_bandwidth),
    **dict.fromkeys(("flow_rate", "reduction_rate", "core_rate"), format_bandwidth),
    **dict.fromkeys(("latency", "message_overhead", "op_overhead", "host_overhead"), format_time),
    **dict.fromkeys(("launch_overhead", "floor", "graph_launch"), format_time),
    **dict.fromkeys(("memory", "host_memory", "burst", "window"), format_size),
    "power": lambda value, digits: f"{value:.{digits}g} W",
}
_CURVES: dict[str, Callable[[float, int], str]] = {
    **dict.fromkeys(("points", "gather", "pool", "scatter"), format_size),
    "fan_in": format_count,
}
"""Keys of pairs: a size, or a number of flows, with a share."""
ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Difference:
    """A key of a topology file, or a figure of the cluster, with its two values."""

    key: str
    a: str
    b: str


def run_diff(a: str, b: str) -> list[Difference]:
    """Return the differences between two topology files, or shipped topologies, in the order of keys.

    Raises ClusterError.
    """
    left = _facts(a)
    right = _facts(b)
    keys = [*left, *(key for key in right if key not in left)]
    pairs = ((key, left.get(key, ABSENT), right.get(key, ABSENT)) for key in keys)
    return [Difference(key, one, other) for key, one, other in pairs if one != other]


def shown(line: Difference) -> tuple[str, str, str]:
    """The key and the values of a difference for people: rates with units, numbers in four digits if these differ."""
    a = _short(line.key, line.a)
    b = _short(line.key, line.b)
    return (line.key.removesuffix("_GBps"), a, b) if a != b else (line.key, line.a, line.b)


def _short(key: str, text: str) -> str:
    if text in ("True", "False"):
        return "yes" if text == "True" else "no"
    try:
        value = float(text)
    except ValueError:
        return text
    if key.endswith("_GBps"):
        return format_bandwidth(1e9 * value)
    return f"{int(text):,}" if text.isdecimal() else f"{value:.4g}"


def _facts(name: str) -> dict[str, str]:
    file, path = load_topology(name)
    described = describe(build_cluster(file, path))
    figures = dict(item for key in _FIGURES for item in _flat(key, described[key]))
    return {**dict(_of_file(file, path)), **figures}


def _of_file(file: TopologyFile, path: Path) -> Iterator[tuple[str, str]]:
    yield from _flat("gpu", file.gpu)
    yield from _flat("transport", file.transport)
    for number, node in enumerate(file.nodes):
        yield from _flat("node" if len(file.nodes) == 1 else f"node.{number}", node)
    if isinstance(file.fabric, GraphTable):
        yield from _of_graph(file.fabric, path)
    else:
        yield from _flat("fabric", file.fabric)
    for number, override in enumerate(file.override):
        yield from _flat(f"override.{number}", override)


def _of_graph(table: GraphTable, path: Path) -> Iterator[tuple[str, str]]:
    """Switches with their servers, and the cables between them."""
    try:
        plan = table.plan(path.parent)
    except ValueError as error:
        raise ClusterError(path, "fabric", str(error)) from None
    yield from _flat("fabric", table.model_copy(update={"nodes": {}, "links": (), "graphml": ""}))
    for name, nodes in zip(plan.switches, plan.nodes, strict=True):
        yield f"fabric.nodes.{name}", str(nodes)
    for edge in plan.edges:
        key = " <-> ".join(sorted((edge.a, edge.b)))
        link = edge.link or table.cable.build()
        rate = format_bandwidth(link.rate, _DIGITS)
        latency = format_time(link.latency, _DIGITS)
        yield f"fabric.links.{key}", f"{edge.cables} x {rate}, {latency}, efficiency {link.efficiency:.{_DIGITS}g}"


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """The values below a key as text, each with its full key. A part begins with its name."""
    if isinstance(value, BaseModel):
        for name, inner in value:
            if name == "name":
                yield key, str(inner)
            elif name not in _PROSE:
                yield from _flat(f"{key}.{name}", inner)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}", inner)
    elif isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
        for number, inner in enumerate(value):
            yield from _flat(f"{key}.{number}", inner)
    elif value is not None and value != "" and value != ():
        yield key, value_text(key.split("."), value)


def value_text(keys: Sequence[str], value: Any) -> str:
    """The value of a key of a part, with the unit of the key; `keys` are its path, from the part on."""
    if isinstance(value, float) and keys[-1] in _UNITS:
        return _UNITS[keys[-1]](value, _DIGITS)
    if isinstance(value, tuple) and isinstance(value[0], tuple) and keys[-1] in _CURVES:
        unit = _CURVES[keys[-1]]
        return ", ".join(f"{unit(at, _DIGITS)}: {share:.{_DIGITS}g}" for at, share in value)
    if isinstance(value, tuple) and "spread" in keys:
        return ", ".join(f"{name}: {spread:.{_DIGITS}g}" for name, spread in zip(BAND_NAMES, value, strict=True))
    if isinstance(value, tuple):
        return ", ".join(value_text(keys, item) for item in value)
    if isinstance(value, float) and "flops" in keys and "efficiency_flops" not in keys:
        return f"{format_count(value, _DIGITS)}FLOP/s"
    return f"{value:.{_DIGITS}g}" if isinstance(value, float) else str(value)
