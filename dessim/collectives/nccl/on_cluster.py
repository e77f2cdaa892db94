"""The set-up that NCCL finds for a group of GPUs of a cluster."""

from __future__ import annotations

import numpy as np

from dessim.arrays import Ints
from dessim.cluster import Cluster
from dessim.cluster.curves import Curve, curve_of
from dessim.cluster.node import NodeLinks
from dessim.cluster.parts import Node
from dessim.cluster.tree_routes import sums_in_fabric, sums_in_node
from dessim.collectives.nccl.constants import values
from dessim.collectives.nccl.setup import ARCHITECTURES, Setup
from dessim.errors import UsageError
from dessim.trace.schema import Collective

_UNKNOWN = "ampere"
"""The architecture whose constants are used for a GPU that names none, such as AMD's: RCCL's tables are similar."""
_GB = 1e9


def setup_of(cluster: Cluster, gpus: Ints) -> Setup:
    """The set-up of a group: its servers, the slowest wiring among them, and the NICs that all of them use.

    A server with fewer of the GPUs uses fewer NICs, and rings need the same number everywhere.
    """
    nodes = cluster.node_of(gpus)
    _, per_node = np.unique(nodes, return_counts=True)
    pairs = np.unique(np.column_stack([nodes, cluster.wiring.nic_of(gpus)]), axis=0)
    _, nics = np.unique(pairs[:, 0], return_counts=True)
    nccl = cluster.transport.nccl
    architectures = {gpu.architecture or _UNKNOWN for gpu, _ in cluster.devices(gpus)}
    kinds = [kind for kind, _ in cluster.wiring.by_kind(gpus)]
    slowest = min((kind.node for kind in kinds), key=_inside)
    return Setup(
        architecture=min(architectures, key=ARCHITECTURES.index),
        n=len(gpus),
        nodes=len(per_node),
        per_node=int(per_node.max()),
        nvlink=_inside(slowest) / _GB,
        wiring="pcie" if slowest.nvlink is None else slowest.nvlink_wiring,
        nics=int(nics.min()),
        nic=min(_nic_rate(kind) for kind in kinds) / _GB,
        network=nccl.network if nccl is not None else "ib",
        nvls=sums_in_node(cluster),
        sharp=nccl is not None and nccl.collnet and sums_in_fabric(cluster),
        amd=nccl is not None and nccl.amd,
        version=nccl.version if nccl is not None else "2.29",
    )


def values_on(cluster: Cluster, setup: Setup) -> dict[str, float]:
    """The constants of the cluster's transport on a set-up, in us and GB/s. Raises UsageError for an unknown factor."""
    nccl = cluster.transport.nccl
    return values(setup, {} if nccl is None else nccl.factors, 1.0 if nccl is None else nccl.overhead)


def curve_on(cluster: Cluster, op: Collective, setup: Setup) -> Curve | None:
    """The curve that a calibration measured of the op on a set-up, or None. Raises UsageError for an unknown op."""
    curves = cluster.transport.nccl.curves if cluster.transport.nccl is not None else ()
    for curve in curves:
        if curve.op not in list(Collective):
            raise UsageError(f"the transport has a curve of {curve.op!r}; known: {', '.join(Collective)}")
    if setup.per_node * setup.nodes >= setup.n + setup.nodes:
        return None  # a group that fills its servers unevenly, which nccl-tests never measure
    return curve_of(curves, str(op), gpus=setup.n, servers=setup.nodes, gpus_per_process=setup.gpus_per_process)


def _nic_rate(kind: NodeLinks) -> float:
    """Rate [bytes/s] of a NIC, or of the PCIe links behind it if these are slower, as NCCL's search takes it."""
    return kind.node.nic.rate * kind.nic_capacity() / kind.node.nic.capacity


def _inside(node: Node) -> float:
    """Rate [bytes/s] of a GPU to the others of its server."""
    link = node.nvlink or node.pcie or node.nic
    return link.capacity
