"""From a topology file, or the name of one that ships with dessim, to a Cluster."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dessim.cluster import parts
from dessim.cluster.fabrics import fat_tree, leaf_spine, rail, single_switch
from dessim.cluster.graph import Cluster
from dessim.cluster.links import LinkBuilder
from dessim.cluster.node import add_node_layers, add_node_links
from dessim.cluster.policy import Routing
from dessim.cluster.routing import Fabric
from dessim.cluster.spec import (
    Catalogue,
    FatTreeTable,
    RailTable,
    RoutedTable,
    SingleSwitchTable,
    TopologyFile,
    TwoTierTable,
    problems,
)
from dessim.errors import ClusterError

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


def build_cluster(file: TopologyFile, path: Path) -> Cluster:
    """Vertices and links of a validated file; `path` names the cluster unless the file does."""
    node, n_nodes = file.node.build(), file.node.count
    _refuse_giants(file, path)
    builder = LinkBuilder()
    vertices = add_node_layers(builder, node, n_nodes)
    fabric, leaf_vertex = _build_fabric(builder, file)
    switch = file.fabric.switch
    wiring = add_node_links(builder, node, n_nodes, vertices, leaf_vertex, switch.latency if switch else 0.0)
    return Cluster(
        name=file.name or path.stem,
        description=file.description,
        path=path,
        n_nodes=n_nodes,
        gpu=file.gpu.build(),
        transport=file.transport.build(),
        fabric=fabric,
        routing=file.fabric.route() if isinstance(file.fabric, RoutedTable) else Routing("static"),
        wiring=wiring,
        links=builder.freeze(),
    )


def _build_fabric(builder: LinkBuilder, file: TopologyFile) -> tuple[Fabric, Any]:
    table, nics = file.fabric, file.node.nics
    n_nics = file.node.count * nics
    switch: parts.Switch | None = table.switch.build() if table.switch else None
    if isinstance(table, SingleSwitchTable):
        return single_switch.build(builder, n_nics, switch)
    if isinstance(table, FatTreeTable):
        return fat_tree.build(builder, n_nics, _tree(table, nics, switch))
    tiers = leaf_spine.Tiers(table.spines, table.links_per_spine, table.uplink.build(), switch)
    if isinstance(table, RailTable):
        aware = table.rail_aware
        return rail.build(builder, file.node.count, nics, table.nodes_per_pod, tiers, rail_aware=aware)
    return leaf_spine.build(builder, n_nics, nics * table.nodes_per_leaf, tiers)


def _tree(table: FatTreeTable, nics: int, switch: parts.Switch | None) -> fat_tree.Tree:
    return fat_tree.Tree(
        nics_per_leaf=nics * table.nodes_per_leaf,
        leaves_per_pod=table.leaves_per_pod,
        spines=table.spines_per_pod,
        cores=table.cores_per_spine,
        links_per_spine=table.links_per_spine,
        links_per_core=table.links_per_core,
        uplink=table.uplink.build(),
        core_uplink=(table.core_uplink or table.uplink).build(),
        switch=switch,
    )


def _refuse_giants(file: TopologyFile, path: Path) -> None:
    node, fabric = file.node, file.fabric
    links = 2 * node.count * (2 * node.gpus + node.nics)
    if isinstance(fabric, TwoTierTable):
        per_leaf = fabric.nodes_per_pod if isinstance(fabric, RailTable) else fabric.nodes_per_leaf
        leaves = -(-node.count // per_leaf) * (node.nics if isinstance(fabric, RailTable) else 1)
        links += 2 * leaves * fabric.spines
    elif isinstance(fabric, FatTreeTable):
        leaves = -(-node.count // fabric.nodes_per_leaf)
        pods = -(-leaves // fabric.leaves_per_pod)
        links += 2 * fabric.spines_per_pod * (leaves + pods * fabric.cores_per_spine)
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
