"""Links that are of another part than their like: mixed link rates in one cluster, as a file's `[[override]]` says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dessim.cluster.faults import find_links
from dessim.cluster.links import IntArray, Links
from dessim.cluster.node import NodeLinks
from dessim.cluster.parts import Link
from dessim.cluster.spec import OverrideTable
from dessim.errors import ClusterError


def overridden(
    tables: tuple[OverrideTable, ...], links: Links, wiring: NodeLinks, path: Path
) -> list[tuple[IntArray, Link]]:
    """Which links are what instead; of several overrides of a link the last counts.

    Raises ClusterError where a name is no link, a link is inside a node but named one by one, or nodes are not there.
    """
    changes: list[tuple[IntArray, Link]] = []
    for number, table in enumerate(tables):
        where = f"override.{number}"
        if table.nodes is not None:
            ids = _of_nodes(table, links, wiring, path, where)
            changes += [(ids[kind], part) for kind, part in table.built().items()]
        else:
            assert table.cable is not None
            for name in table.links:
                found = find_links(links, name, path)
                inside = found[found >= wiring.first]
                if len(inside):
                    raise ClusterError(
                        path, f"{where}.links", f"{links.name(int(inside[0]))} belongs to a node; override by `nodes`"
                    )
                changes.append((found, table.cable.build()))
    return changes


def _of_nodes(table: OverrideTable, links: Links, wiring: NodeLinks, path: Path, where: str) -> dict[str, IntArray]:
    """The links of the override's nodes, both ways, by key."""
    assert table.nodes is not None
    first, last = table.nodes
    n_nodes = len(links.of_kind("nic_up")) // wiring.node.nics
    if not first <= last < n_nodes:
        raise ClusterError(
            path, f"{where}.nodes", f"[{first}, {last}] are not two of nodes 0 to {n_nodes - 1}, in order"
        )
    found = {}
    for key, part in table.built().items():
        usual: Link | None = getattr(wiring.node, key)
        if usual is None or part.capacity > usual.capacity:
            told = f"node.{key} is not there" if usual is None else f"faster than node.{key}; write the fastest there"
            raise ClusterError(path, f"{where}.{key}", told)
        ids = [links.of_kind(f"{key}_{way}") for way in ("up", "down")]
        if key == "pcie":
            ids += [links.of_kind(f"pcie_nic_{way}") for way in ("up", "down")]
        # every kind is in the order of nodes, equally many a node
        found[key] = np.concatenate([each.reshape(n_nodes, -1)[first : last + 1].ravel() for each in ids if len(each)])
    return found
