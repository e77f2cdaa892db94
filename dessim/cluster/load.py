"""From a topology file, or the name of one that ships with dessim, to a Cluster."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dessim.cluster.graph import Cluster
from dessim.cluster.links import LinkBuilder
from dessim.cluster.node import add_node_layers
from dessim.cluster.overrides import overridden
from dessim.cluster.parts import Gpu
from dessim.cluster.spec.parts import Catalogue, GpuTable
from dessim.cluster.spec.tiered_fabrics import Site
from dessim.cluster.spec.topology_file import TopologyFile, problems
from dessim.cluster.wiring import add_wiring
from dessim.errors import ClusterError, UsageError

MAX_FILE_BYTES = 1 << 20
"""No topology page is a megabyte; a larger file is something else given by mistake."""
MAX_LINKS = 20_000_000
"""Larger clusters would not fit in memory; refused before anything is allocated."""


def topology_root(package: Path | None = None) -> Path:
    """The folder of shipped topologies: inside an installed wheel, or at the top of a checkout."""
    package = package or Path(__file__).resolve().parent.parent
    inside, beside = package / "topologies", package.parent / "topologies"
    for folder in (inside, beside):
        if (folder / "parts").is_dir():
            return folder
    raise ClusterError(inside, "", "the shipped topologies are missing; reinstall dessim")


def list_topologies(root: Path | None = None) -> dict[str, Path]:
    """Shipped topologies, name -> file, sorted; a name is the path below the folder, without `.toml`."""
    root = root or topology_root()
    found = [path for path in sorted(root.rglob("*.toml")) if path.relative_to(root).parts[0] != "parts"]
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in found}


def load_catalogue(root: Path | None = None) -> Catalogue:
    """The shipped parts: category (the file's stem) -> name -> table."""
    root = root or topology_root()
    return {path.stem: _read_toml(path) for path in sorted((root / "parts").glob("*.toml"))}


def load_cluster(name_or_path: str | Path) -> Cluster:
    """The cluster of a topology file, or of a shipped topology such as `h100-8x_rail_128`.

    Raises ClusterError that names the file and, for each mistake, the key.
    """
    path = _find(name_or_path)
    data = _read_toml(path)
    try:
        file = TopologyFile.model_validate(data, context=load_catalogue())
    except ValidationError as error:
        raise ClusterError(path, "", problems(error)) from None
    return build_cluster(file, path)


def load_device(name: str) -> Gpu:
    """A device of the shipped catalogue (topologies/parts/gpu.toml), such as a host's CPU. Raises UsageError."""
    known = load_catalogue()["gpu"]
    if name not in known:
        raise UsageError(f"device {name!r} is unknown; choose from {', '.join(known)}")
    return GpuTable.model_validate({"name": name, **known[name]}).build()


def build_cluster(file: TopologyFile, path: Path) -> Cluster:
    """Vertices and links of a validated file; `path` names the cluster unless the file does."""
    _refuse_giants(file, path)
    builder, runs = LinkBuilder(), file.runs()
    vertices = add_node_layers(builder, runs)
    site = Site(tuple(run.count for run in runs), tuple(run.what.nics for run in runs), path.parent)
    try:
        fabric, leaf_vertex = file.fabric.build(builder, site)
    except ValueError as error:
        raise ClusterError(path, "fabric", str(error)) from None
    switch = fabric.switch
    wiring = add_wiring(builder, runs, vertices, leaf_vertex, switch.latency if switch else 0.0)
    links = builder.freeze()
    changes = overridden(file.override, links, wiring, path)
    if changes:
        links = builder.freeze(changes)
    return Cluster(
        name=file.name or path.stem,
        description=file.description,
        path=path,
        gpu=file.gpu.build(),
        transport=file.transport.build(),
        fabric=fabric,
        routing=file.fabric.route(),
        wiring=wiring,
        links=links,
        built=links if changes else None,
    )


def _refuse_giants(file: TopologyFile, path: Path) -> None:
    inside = sum(2 * node.count * (2 * node.gpus + node.nics) for node in file.nodes)
    links = inside + file.fabric.n_links(file.n_nodes, max(node.nics for node in file.nodes))
    if links > MAX_LINKS:
        raise ClusterError(path, "node.count", f"{links:,} links are more than the {MAX_LINKS:,} dessim can hold")


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    known = list_topologies()
    name = str(name_or_path)
    if name in known:
        return known[name]
    if path.suffix == ".toml" or path.is_dir():
        raise ClusterError(path, "", "is a folder, not a topology file" if path.is_dir() else "no such topology file")
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ClusterError(name, "", f"no such topology; {hint}shipped: {', '.join(known)}; or give a .toml file")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ClusterError(path, "", f"is larger than {MAX_FILE_BYTES} bytes, so not a topology file")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ClusterError(path, "", f"not TOML: {error}") from None
    except UnicodeDecodeError:
        raise ClusterError(path, "", "not TOML: not a UTF-8 text file") from None
    except OSError as error:
        raise ClusterError(path, "", f"cannot be read: {error.strerror}") from None
