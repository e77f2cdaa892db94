"""Builds a `Cluster` from a topology file, given by path or by the name of one that ships with dessim."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError

from dessim.cluster.graph import Cluster
from dessim.cluster.links import LinkBuilder
from dessim.cluster.node import add_node_layers
from dessim.cluster.parts import Gpu
from dessim.cluster.spec.gpu import GpuTable
from dessim.cluster.spec.overrides import overridden_links
from dessim.cluster.spec.parts import Catalogue, part_of
from dessim.cluster.spec.tiered_fabrics import Site
from dessim.cluster.spec.topology_file import TopologyFile, problems
from dessim.cluster.wiring import add_wiring
from dessim.errors import ClusterError, UsageError
from dessim.files import parse_toml, read_text
from dessim.wording import choose_from, did_you_mean

MAX_FILE_BYTES = 1 << 20
"""No topology file is this large; a larger file was given by mistake."""
MAX_LINKS = 20_000_000
"""Larger clusters would not fit in memory. They are refused before anything is allocated."""


def topology_root(package: Path | None = None) -> Path:
    """Return the folder of shipped topologies: inside an installed wheel, or at the top of a checkout.

    `package` is the folder of the dessim package, this one unless given. Raises ClusterError if there is neither.
    """
    package = package or Path(__file__).resolve().parent.parent
    in_wheel = package / "topologies"
    in_checkout = package.parent / "topologies"
    for folder in (in_wheel, in_checkout):
        if (folder / "parts").is_dir():
            return folder
    raise ClusterError(in_wheel, "", "the shipped topologies are missing; reinstall dessim")


def list_topologies(root: Path | None = None) -> dict[str, Path]:
    """Return the shipped topologies, name -> file, sorted by name.

    A name is the path below the folder, without `.toml`.
    """
    root = root or topology_root()
    paths = [path for path in sorted(root.rglob("*.toml")) if path.relative_to(root).parts[0] != "parts"]
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in paths}


def load_catalogue(root: Path | None = None) -> Catalogue:
    """Return the shipped parts: category (the stem of the file) -> name -> table."""
    root = root or topology_root()
    return {path.stem: _read_toml(path) for path in sorted((root / "parts").glob("*.toml"))}


def load_cluster(name_or_path: str | Path) -> Cluster:
    """Load the cluster of a topology file, or of a shipped topology such as `h100-8x_rail_128`.

    Raises ClusterError, which names the file and, for each mistake, the key.
    """
    file, path = load_topology(name_or_path)
    return build_cluster(file, path)


def load_topology(name_or_path: str | Path) -> tuple[TopologyFile, Path]:
    """Return the tables of a topology file, or of a shipped topology, and its path. Raises ClusterError."""
    path = _find(name_or_path)
    data = _read_toml(path)
    try:
        return TopologyFile.model_validate(data, context=load_catalogue()), path
    except ValidationError as error:
        raise ClusterError(path, "", problems(error)) from None


def load_device(name: str) -> Gpu:
    """Load a device of the shipped catalogue (topologies/parts/gpu.toml), such as a host's CPU, or the `[gpu]` of a
    TOML file, such as those of des_ref.bench_ops. Raises UsageError, and ClusterError for a file.
    """
    if name.endswith(".toml"):
        return _load_device_file(Path(name))
    devices = load_catalogue()["gpu"]
    if name not in devices:
        raise UsageError(f"device {name!r} is unknown; {choose_from(name, devices)}; or give a .toml file")
    return GpuTable.model_validate({"name": name, **devices[name]}).build()


def _load_device_file(path: Path) -> Gpu:
    if not path.is_file():
        raise ClusterError(path, "", "no such device file; write one with: python -m des_ref.bench_ops -o device.toml")
    tables = _read_toml(path)
    if "gpu" not in tables:
        raise ClusterError(path, "", "has no [gpu]; write one with: python -m des_ref.bench_ops -o device.toml")
    try:
        return _DeviceFile.model_validate(tables, context=load_catalogue()).gpu.build()
    except ValidationError as error:
        raise ClusterError(path, "", problems(error)) from None


class _DeviceFile(BaseModel):
    """A file with a device; what else it has, such as the measurements behind the numbers, is for people."""

    gpu: Annotated[GpuTable, part_of("gpu")]


def build_cluster(file: TopologyFile, path: Path) -> Cluster:
    """Build the cluster of a validated file; the stem of `path` is its name unless the file gives one.

    Raises ClusterError where the fabric cannot be built, an override names no link, or the cluster is too large.
    """
    _refuse_giants(file, path)
    builder = LinkBuilder()
    blocks = file.blocks()
    vertices = add_node_layers(builder, blocks)
    site = Site(tuple(block.count for block in blocks), tuple(block.node.nics for block in blocks), path.parent)
    try:
        fabric, leaf_vertex = file.fabric.build(builder, site)
    except ValueError as error:
        raise ClusterError(path, "fabric", str(error)) from None
    switch_latency = fabric.switch.latency if fabric.switch else 0.0
    wiring = add_wiring(builder, blocks, vertices, leaf_vertex, switch_latency)
    links = builder.freeze()
    replacements = overridden_links(file.override, links, wiring, path)
    if replacements:
        links = builder.freeze(replacements)
    return Cluster(
        name=file.name or path.stem,
        description=file.description,
        path=path,
        gpu=file.gpu.build(),
        transport=file.transport.build(),
        fabric=fabric,
        routing=file.fabric.build_routing(),
        wiring=wiring,
        links=links,
        built=links if replacements else None,
    )


def _refuse_giants(file: TopologyFile, path: Path) -> None:
    """Raise ClusterError for a cluster of too many links; the bound on those inside servers is generous."""
    inside = sum(2 * node.count * (2 * node.gpus + node.nics) for node in file.nodes)
    n_links = inside + file.fabric.n_links(file.n_nodes, max(node.nics for node in file.nodes))
    if n_links > MAX_LINKS:
        raise ClusterError(path, "node.count", f"{n_links:,} links are more than the {MAX_LINKS:,} dessim can hold")


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    name = str(name_or_path)
    root = topology_root()
    plain = path.as_posix() == name and not path.is_absolute() and not {"parts", ".."} & set(path.parts)
    if plain and (file := root / f"{name}.toml").is_file():
        return file  # listing all shipped topologies would take most of the time to load one
    shipped = list_topologies(root)
    if name in shipped:
        return shipped[name]
    if path.suffix == ".toml" or path.is_dir():
        raise ClusterError(path, "", "is a folder, not a topology file" if path.is_dir() else "no such topology file")
    hint = did_you_mean(name, shipped).strip() or "all: dessim topo list; or give a .toml file"
    raise ClusterError(name, "", f"no such topology; {hint}")


def _read_toml(path: Path) -> Mapping[str, Any]:
    text = read_text(path, ClusterError, MAX_FILE_BYTES)
    try:
        return _parsed(text)
    except ValueError as error:
        raise ClusterError(path, "", f"not TOML: {error}") from None


@lru_cache(maxsize=256)
def _parsed(text: str) -> Mapping[str, Any]:
    """Parse TOML. Nine tenths of the time to load a cluster would go into parsing the parts, which seldom change."""
    return parse_toml(text)
