"""A cluster as the network of ASTRA-sim's analytical back end: YAML with one entry for each dimension, innermost first.

A dimension is a Switch, a Ring or FullyConnected; its bandwidth is that of one link of an NPU, in units of 2^30 bytes/s
although the format calls them GB/s (astra-network-analytical, bw_GBps_to_Bpns), and its latency that of one hop. NVLink
is the first dimension. Leaves and spines, and fat trees, have one for the servers of a leaf, and one for each tier
above it with the bandwidth that the uplinks leave to a GPU, so oversubscription is kept. Rails are one switch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dessim.cluster.fabrics.fat_tree import FatTree
from dessim.cluster.fabrics.hyperx import HyperX, Shape
from dessim.cluster.fabrics.leaf_spine import LeafSpine
from dessim.cluster.fabrics.single_switch import SingleSwitch
from dessim.cluster.fabrics.torus import Grid, Torus
from dessim.cluster.graph import Cluster
from dessim.errors import UsageError

GIB = 2.0**30


@dataclass(frozen=True, slots=True)
class Dimension:
    """One dimension: its kind, number of members, bytes/s of a link of one NPU, and seconds of a hop."""

    kind: str
    size: int
    bandwidth: float
    latency: float


def astra_sim_network(cluster: Cluster) -> tuple[str, list[str]]:
    """Return the YAML and sentences on what is lost. Raises UsageError where dimensions do not describe the fabric."""
    dimensions = [dimension for dimension in (*_inside(cluster), *_across(cluster)) if dimension.size > 1]
    if not dimensions:
        raise UsageError(f"{cluster.name}: has one GPU, and ASTRA-sim needs a dimension of two")
    columns = {
        "topology": ", ".join(dimension.kind for dimension in dimensions),
        "npus_count": ", ".join(str(dimension.size) for dimension in dimensions),
        "bandwidth": ", ".join(f"{dimension.bandwidth / GIB:.9g}" for dimension in dimensions),
        "latency": ", ".join(f"{dimension.latency * 1e9:.9g}" for dimension in dimensions),
    }
    units = {"bandwidth": "  # GB/s, which ASTRA-sim converts with 2^30", "latency": "  # ns"}
    lines = [f"{key}: [ {values} ]{units.get(key, '')}" for key, values in columns.items()]
    lost = [
        "costs of the transport, GPUs and PCIe: ASTRA-sim has them in its system file",
        f"routing ({cluster.routing.policy}) and single links: a dimension is uniform",
        "a latency of its own for each link: a dimension has one, that of its longest hop",
    ]
    if cluster.kind.startswith("rail"):
        lost.append("rails and spines, with their oversubscription: the servers are one switch")
    return "\n".join([*lines, ""]), lost


def _inside(cluster: Cluster) -> list[Dimension]:
    """The dimension of a server: NVLink, or one switch at the rate of PCIe."""
    if len(cluster.nodes) > 1 or cluster.built is not None:
        raise UsageError(
            f"{cluster.name}: has servers or links of several kinds, and a dimension of ASTRA-sim is uniform"
        )
    node = cluster.node
    link = node.nvlink or node.pcie or node.nic
    kind = "Switch" if node.nvlink_wiring == "switched" else "FullyConnected"
    if node.nvlink_wiring == "cube_mesh":
        raise UsageError(f"{cluster.name}: a cube mesh is neither a switch, a ring nor fully connected")
    extra = node.nvswitch.latency if node.nvswitch else 0.0
    peers = node.gpus - 1 if kind == "FullyConnected" else 1
    return [Dimension(kind, node.gpus, link.capacity / peers, link.latency + extra)]


def _across(cluster: Cluster) -> list[Dimension]:
    """The dimensions of the fabric."""
    fabric = cluster.fabric
    node = cluster.node
    n = cluster.n_nodes
    rate = cluster.wiring.kinds[0].nic_capacity() * node.nics / node.gpus
    switch = fabric.switch.latency if isinstance(fabric, SingleSwitch | LeafSpine | FatTree) and fabric.switch else 0.0
    hop = node.nic.latency + switch
    if isinstance(fabric, SingleSwitch):
        return [Dimension("Switch", n, rate, hop)]
    if isinstance(fabric, Torus | HyperX):
        shape = fabric.grid if isinstance(fabric, Torus) else fabric.shape
        together = _divided(cluster, n, math.prod(shape.size))
        return [Dimension("Switch", together, rate, hop), *_grid(shape, together * node.gpus)]
    if isinstance(fabric, LeafSpine) and cluster.kind == "leaf_spine" and fabric.leaves > 1:
        inside = _divided(cluster, n, fabric.leaves)
        up = min(rate, fabric.uplinks / (inside * node.gpus))
        return [Dimension("Switch", inside, rate, hop), Dimension("Switch", fabric.leaves, up, hop)]
    if isinstance(fabric, LeafSpine) and cluster.kind in ("leaf_spine", "rail_optimised", "rail_only"):
        return [Dimension("Switch", n, rate, hop)]
    if isinstance(fabric, FatTree):
        inside = _divided(cluster, n, fabric.leaves)
        leaves = _divided(cluster, fabric.leaves, fabric.pods)
        up = min(rate, fabric.tree.leaf_uplinks / (inside * node.gpus))
        top = min(up, fabric.tree.pod_uplinks / (inside * leaves * node.gpus))
        sizes = ((inside, rate), (leaves, up), (fabric.pods, top))
        return [Dimension("Switch", size, bandwidth, hop) for size, bandwidth in sizes]
    raise UsageError(f"{cluster.name}: dimensions do not describe the fabric {cluster.kind}; write --format simgrid")


def _divided(cluster: Cluster, whole: int, parts: int) -> int:
    if whole % parts:
        raise UsageError(f"{cluster.name}: {parts} equal parts of {whole} are needed, and the last one is smaller")
    return whole // parts


def _grid(shape: Grid | Shape, gpus: int) -> list[Dimension]:
    """A ring, or a full mesh, for each dimension, whose links a router's GPUs share. Nodes fill the last one first."""
    cables = [shape.cables] * len(shape.size) if isinstance(shape, Grid) else shape.cables
    kind = "Ring" if isinstance(shape, Grid) else "FullyConnected"
    latency = shape.cable.latency + (shape.switch.latency if shape.switch else 0.0)
    return [
        Dimension(kind, size, shape.cable.capacity * count / gpus, latency)
        for size, count in reversed(list(zip(shape.size, cables, strict=True)))
    ]
