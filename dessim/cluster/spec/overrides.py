"""`[[override]]`: links that are a different part from the others of their kind, for mixed rates in one cluster."""

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


def overridden_links(
    tables: tuple[OverrideTable, ...], links: Links, wiring: Wiring, path: Path
) -> list[tuple[IntArray, Link]]:
    """Return ids of links with the part they are instead; where several name the same link, the last one counts.

    Raises ClusterError where a name is not a link, a link inside a node is given by name, a node does not exist, or a
    part is faster than that of `[node]`.
    """
    changes: list[tuple[IntArray, Link]] = []
    for number, table in enumerate(tables):
        key = f"override.{number}"
        if table.nodes is not None:
            ids = _links_of_nodes(table, wiring, path, key)
            changes += [(ids[part_key], part) for part_key, part in table.node_parts().items()]
            continue
        assert table.cable is not None
        for name in table.links:
            named = find_links(links, name, path)
            in_nodes = named[named >= wiring.first_server_link]
            if len(in_nodes):
                raise ClusterError(
                    path, f"{key}.links", f"{links.name(int(in_nodes[0]))} belongs to a node; override by `nodes`"
                )
            changes.append((named, table.cable.build()))
    return changes


def _links_of_nodes(table: OverrideTable, wiring: Wiring, path: Path, key: str) -> dict[str, IntArray]:
    """Ids of the links of the override's nodes, in both directions, by the key of their part."""
    assert table.nodes is not None
    first, last = table.nodes
    if not first <= last < wiring.n_nodes:
        raise ClusterError(
            path, f"{key}.nodes", f"[{first}, {last}] are not two of nodes 0 to {wiring.n_nodes - 1}, in order"
        )
    ids: dict[str, list[IntArray]] = {part_key: [] for part_key in table.node_parts()}
    for kind in wiring.kinds:
        low = max(first - kind.block.first_node, 0)
        high = min(last + 1 - kind.block.first_node, kind.block.count)
        if low >= high:
            continue
        for part_key, part in table.node_parts().items():
            usual: Link | None = getattr(kind.node, part_key)
            if usual is None:
                raise ClusterError(path, f"{key}.{part_key}", f"these nodes have no node.{part_key}")
            if part.capacity > usual.capacity:
                # Other code takes the rates in [node] as upper bounds for every node.
                raise ClusterError(
                    path, f"{key}.{part_key}", f"faster than node.{part_key}; write the fastest part there"
                )
            for block, per_node in _blocks_of_part(kind, part_key):
                ids[part_key].append(block + np.arange(low * per_node, high * per_node))
    return {part_key: np.concatenate(arrays) for part_key, arrays in ids.items()}


def _blocks_of_part(kind: NodeLinks, part_key: str) -> list[tuple[int, int]]:
    """The first link of each block that a key describes, and the number of its links per node."""
    gpus = kind.node.gpus
    nics = kind.node.nics
    blocks = {
        "nic": [(kind.nic_up, nics), (kind.nic_down, nics)],
        "nvlink": [(kind.nvlink_up, gpus), (kind.nvlink_down, gpus)],
        "pcie": [(kind.pcie_up, gpus), (kind.pcie_down, gpus), (kind.bus_up, nics), (kind.bus_down, nics)],
    }
    return [(block, per_node) for block, per_node in blocks[part_key] if block >= 0]
