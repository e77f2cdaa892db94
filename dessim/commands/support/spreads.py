"""The spread of each part of a simulated step: of collectives from the transport, of compute from the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dessim.cluster import Cluster
from dessim.cluster.spread import Spread
from dessim.results.critical_path import HOST, PathOp
from dessim.results.error_bar import ErrorBar, SpreadOf
from dessim.sim.core.bounds import COMPUTE, LATE, QUEUE, SERVICE
from dessim.trace.schema import Collective, Kind

SERVERS = "parameter servers"
_SEVERAL = 2
"""Servers of a group that is not known."""
MEASURED = 0.05
"""Spread of compute that was measured on the same device: assumed, the variation of an op between runs."""


def spreads_on(cluster: Cluster, groups: Mapping[str, Sequence[int]], *, measured: bool = False) -> SpreadOf:
    """The spread of the parts of a step on `cluster`, whose groups are on the GPUs `groups`.

    `measured`: whether its compute times were measured on such GPUs.
    """
    servers = {name: servers_of(cluster, gpus) for name, gpus in groups.items()}
    compute = _compute(cluster, sorted({gpu for members in groups.values() for gpu in members}), measured)

    def spread_of(op: PathOp, bound: str) -> tuple[str, float] | None:
        if op.what in (HOST, Kind.COMPUTE, Kind.COPY):
            return compute
        if cluster.transport.spread is None:
            return None
        if op.what == Collective.BARRIER:
            return COMPUTE, 0.0
        group = op.group or ""
        gpus = len(groups.get(group, ())) or 1
        return cluster.transport.spread_of(op.what, op.size, gpus=gpus, servers=servers.get(group, _SEVERAL))

    return spread_of


def served_spreads(
    cluster: Cluster, workers: int, size: float, servers: float | None, *, measured: bool = False
) -> SpreadOf:
    """The spread of the parts of a step of `workers` workers with dedicated parameter servers.

    Its messages have about `size` bytes; `servers` is the spread of the servers' times. Waiting for other
    workers counts as waiting for servers.
    """
    compute = _compute(cluster, range(workers), measured)
    known = cluster.transport.spread
    message = known.of(str(Collective.SEND_RECV), size, across=True) if known is not None else None

    def spread_of(op: PathOp, bound: str) -> tuple[str, float] | None:
        if bound == COMPUTE:
            return compute
        if bound in (QUEUE, SERVICE, LATE):
            return None if servers is None else (SERVERS, servers)
        return message

    return spread_of


def bar_of(
    cluster: Cluster,
    op: Collective,
    size: float,
    *,
    gpus: Sequence[int],
    spread: Spread | None = None,
    gpus_per_process: int = 1,
) -> ErrorBar | None:
    """The error bar of one collective on S = `size` bytes, from `spread` or that of the transport; None: not known."""
    servers = servers_of(cluster, gpus)
    if spread is not None:
        known = spread.of(str(op), size, across=servers > 1, gpus=len(gpus))
    else:
        known = cluster.transport.spread_of(
            str(op), size, gpus=len(gpus), servers=servers, gpus_per_process=gpus_per_process
        )
    return ErrorBar(dict([known])) if known is not None else None


def servers_of(cluster: Cluster, gpus: Sequence[int]) -> int:
    """The number of servers that the GPUs are on."""
    return len(np.unique(cluster.node_of(np.asarray(gpus))))


def _compute(cluster: Cluster, gpus: Sequence[int], measured: bool) -> tuple[str, float] | None:
    """The kind and the largest spread of compute on `gpus`; None if that of a device is not known."""
    if measured:
        return COMPUTE, MEASURED
    known = [gpu.spread for gpu, _ in cluster.devices(gpus)]
    return None if None in known else (COMPUTE, max(spread for spread in known if spread is not None))
