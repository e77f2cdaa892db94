"""A topology file from the descriptions that a cluster's own tools write."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dessim.cluster import Cluster, Link, load_cluster
from dessim.cluster.exporters.graphml import graphml_text
from dessim.cluster.fabrics.graph import Edge, Plan
from dessim.cluster.importers.compose import Wishes, compose
from dessim.cluster.importers.detect import read_fabric, read_node
from dessim.cluster.importers.found import FoundFabric, FoundNode, natural
from dessim.cluster.importers.parts import Choice, gbits
from dessim.cluster.importers.recognise import Shape, recognise
from dessim.cluster.importers.write import topology_text
from dessim.cluster.load import load_catalogue
from dessim.errors import ClusterError, DessimError, FileError, UsageError
from dessim.files import write_text

MAX_LISTED_LINKS = 24
"""Links of a graph that the topology file lists; more go to a GraphML file beside it."""
_NO_FABRIC = FoundFabric((), {}, ())


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """The files to read, the file to write, and what the user states beyond the files.

    `compute` and `nics` are regular expressions that choose adapters of the fabric and of the server.
    """

    out: Path
    fabric: Path | None = None
    node: Path | None = None
    compute: str | None = None
    nics: str | None = None
    wishes: Wishes = field(default_factory=Wishes)


@dataclass(frozen=True, slots=True)
class Imported:
    """The cluster as written, the paths of the files, and sentences on what is assumed and what is left out."""

    cluster: Cluster
    files: tuple[Path, ...]
    assumed: tuple[str, ...]
    left_out: tuple[str, ...]


def run_import(request: ImportRequest) -> Imported:
    """Read the files, write the topology file. Raises UsageError and FileError; nothing is written then."""
    _check(request)
    fabric = read_fabric(request.fabric, _pattern(request.compute, "--compute")) if request.fabric else _NO_FABRIC
    node = read_node(request.node, _pattern(request.nics, "--nics")) if request.node else fabric.node
    shape = _shape(request.fabric, fabric) if request.fabric else None
    if shape is not None and node is not None and fabric.cables_per_adapter:
        shape = shape.with_cables(len(node.nics))
    try:
        composed = compose(node, shape, fabric.network, request.wishes, load_catalogue(), logical=fabric.logical)
    except ValueError as error:
        raise ClusterError(request.node or request.fabric or request.out, "", str(error)) from None
    assumed = (*fabric.assumed, *composed.assumed)
    left_out = _left_out(fabric, node, shape)
    texts: dict[Path, str] = {}
    if shape is not None and shape.kind == "graph":
        texts = _links(composed.tables, shape, request.out)
    composed = replace(composed, assumed=assumed)
    sources = " and ".join(f"{path.name} ({what})" for path, what in _inputs(request))
    comments = [f"Written by dessim topo import from {sources}.", *(f"Left out: {line}." for line in left_out)]
    comments += _numbering(shape)
    description = _description(composed.tables, sources)
    texts = {request.out: topology_text(composed, description, comments), **texts}
    cluster = _built(texts, request.out)
    for path, text in reversed(texts.items()):
        write_text(path, text)
    return Imported(cluster, tuple(texts), assumed, left_out)


def _check(request: ImportRequest) -> None:
    if request.fabric is None and request.node is None:
        raise UsageError("nothing to import: give --fabric, --node or both")
    if request.fabric is not None and request.wishes.nodes is not None:
        raise UsageError("--count is for a server without --fabric, which states the servers")
    if request.out.exists():
        raise FileError(request.out, "", "exists already; name a new file")
    if request.out.suffix != ".toml":
        raise UsageError(f"-o {request.out}: a topology file ends in .toml")


def _pattern(text: str | None, option: str) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text is not None else None
    except re.error as error:
        raise UsageError(f"{option} {text!r} is not a regular expression: {error}") from None


def _shape(path: Path, fabric: FoundFabric) -> Shape:
    try:
        return recognise(fabric)
    except ValueError as error:
        raise ClusterError(path, "", str(error)) from None


def _left_out(fabric: FoundFabric, node: FoundNode | None, shape: Shape | None) -> tuple[str, ...]:
    lines = [*fabric.left_out, *(node.left_out if node else ())]
    if shape is not None and shape.unused:
        names = ", ".join(shape.unused[:3]) + (", ..." if len(shape.unused) > 3 else "")
        lines.append(f"{len(shape.unused)} switches on no shortest route between servers: {names}")
    return tuple(lines)


def _links(tables: dict[str, Any], shape: Shape, out: Path) -> dict[Path, str]:
    """Add the switches and cables of a graph to its table; return the GraphML file where they are too many to list."""
    nodes = Counter(host.switches[0] for host in shape.hosts)
    usual = shape.uplink
    cables = {pair: bundle[0] for pair, bundle in shape.cables.items()}
    if len(cables) <= MAX_LISTED_LINKS:
        tables["fabric"]["nodes"] = {leaf: nodes[leaf] for leaf in shape.leaves}
        cable: Choice = tables["fabric"]["cable"]
        tables["fabric"]["links"] = [
            {"between": list(pair), "cables": count}
            | ({"cable": Choice(cable.part, {"rate": gbits(rate)})} if rate not in (None, usual) else {})
            for pair, (rate, count) in cables.items()
        ]
        return {}
    path = out.with_suffix(".graphml")
    if path.exists():
        raise FileError(path, "", "exists already, and the links go into it; name another file with -o")
    switches = (*shape.leaves, *(name for name in _switches(shape) if name not in nodes))
    edges = tuple(
        Edge(*pair, count, Link("cable", rate, 1.0, 0.0, "imported") if rate not in (None, usual) else None)
        for pair, (rate, count) in cables.items()
    )
    tables["fabric"]["graphml"] = path.name
    return {path: graphml_text(Plan(switches, edges, tuple(nodes[name] for name in switches)))}


def _switches(shape: Shape) -> list[str]:
    return list(dict.fromkeys(end for pair in shape.cables for end in pair))


def _numbering(shape: Shape | None) -> list[str]:
    """A comment on which server has which number."""
    if shape is None:
        return []
    names = [host.name for host in shape.hosts]
    order = "in the natural order of their names" if names == sorted(names, key=natural) else "switch by switch"
    return [f"Servers are numbered {order}: 0 is {names[0]}, {len(names) - 1} is {names[-1]}."]


def _description(tables: dict[str, Any], sources: str) -> str:
    node = tables["node"]
    return f"{node['count']} servers of {node['gpus']} {tables['gpu'].part}, {tables['fabric']['kind']}, from {sources}"


def _inputs(request: ImportRequest) -> list[tuple[Path, str]]:
    both = ((request.fabric, "fabric"), (request.node, "server"))
    return [(path, what) for path, what in both if path is not None]


def _built(texts: dict[Path, str], out: Path) -> Cluster:
    """The cluster that `texts` describe, loaded from a temporary folder. Raises ClusterError with the name of `out`."""
    with TemporaryDirectory() as folder:
        for path, text in texts.items():
            write_text(Path(folder, path.name), text)
        try:
            return replace(load_cluster(Path(folder, out.name)), path=out)
        except DessimError as error:
            message = str(error).replace(f"{folder}/", "")
            raise ClusterError(out, "", f"the imported cluster cannot be built: {message}") from None
