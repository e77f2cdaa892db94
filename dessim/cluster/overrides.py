"""Links that are of another part than their like: mixed link rates in one cluster, as a file's `[[override]]` says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dessim.cluster.faults import find_links
from dessim.cluster.links import IntArray, Links
from dessim.cluster.node import NodeLinks
from dessim.cluster.parts import Link
from dessim.cluster.spec.topology_file import OverrideTable
from dessim.cluster.wiring import Wiring
from dessim.errors import ClusterError


def overridden(
    tables: tuple[OverrideTable, ...], links: Links, wiring: Wiring, path: Path
) -> list[tuple[IntArray, Link]]:
    """Which links are what instead; of several overrides of a link the last counts.

    Raises ClusterError where a name is no link, a link is inside a node but named one by one, or nodes are not there.
    """
    changes: list[tuple[IntArray, Link]] = []
    for number, table in enumerate(tables):
        where = f"override.{number}"
        if table.nodes is not None:
            ids = _of_nodes(table, wiring, path, where)
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


def _of_nodes(table: OverrideTable, wiring: Wiring, path: Path, where: str) -> dict[str, IntArray]:
    """The links of the override's nodes, both ways, by key."""
    assert table.nodes is not None
    first, last = table.nodes
    if not first <= last < wiring.n_nodes:
        raise ClusterError(
            path, f"{where}.nodes", f"[{first}, {last}] are not two of nodes 0 to {wiring.n_nodes - 1}, in order"
        )
    found: dict[str, list[IntArray]] = {key: [] for key in table.built()}
    for kind in wiring.kinds:
        low, high = max(first - kind.run.node, 0), min(last + 1 - kind.run.node, kind.run.count)
        if low >= high:
            continue
        for key, part in table.built().items():
            usual: Link | None = getattr(kind.node, key)
            if usual is None or part.capacity > usual.capacity:
                told = (
                    f"node.{key} is not there" if usual is None else f"faster than node.{key}; write the fastest there"
                )
                raise ClusterError(path, f"{where}.{key}", told)
            for block, each in _blocks(kind, key):
                found[key].append(block + np.arange(low * each, high * each))
    return {key: np.concatenate(ids) for key, ids in found.items()}


def _blocks(kind: NodeLinks, key: str) -> list[tuple[int, int]]:
    """First link of each block that a key describes, and how many of its links a node has."""
    gpus, nics = kind.node.gpus, kind.node.nics
    blocks = {
        "nic": [(kind.nic_up, nics), (kind.nic_down, nics)],
        "nvlink": [(kind.nvlink_up, gpus), (kind.nvlink_down, gpus)],
        "pcie": [(kind.pcie_up, gpus), (kind.pcie_down, gpus), (kind.bus_up, nics), (kind.bus_down, nics)],
    }
    return [(block, each) for block, each in blocks[key] if block >= 0]
