"""The spread of each part of a simulated step: of collectives from the transport, of compute from the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dessim.cluster import Cluster
from dessim.results.critical_path import Segment
from dessim.results.error_bar import Known, SpreadOf
from dessim.sim.core.bounds import COMPUTE, LATE, QUEUE, SERVICE
from dessim.trace.schema import Collective, Kind

SERVERS = "parameter servers"
MEASURED = 0.05
"""Spread of compute that was measured on the same device: assumed, the variation of an op between runs."""


def spreads_on(cluster: Cluster, groups: Mapping[str, Sequence[int]], *, measured: bool = False) -> SpreadOf:
    """The spread of the segments of a run on `cluster`, whose groups are on the GPUs `groups`.

    `measured`: whether its compute times were measured on such GPUs.
    """
    across = {name: len(np.unique(cluster.node_of(np.asarray(gpus)))) > 1 for name, gpus in groups.items()}
    known = cluster.transport.spread
    compute = _compute(cluster, sorted({gpu for members in groups.values() for gpu in members}), measured)

    def spread_of(segment: Segment) -> tuple[str, float] | None:
        span = segment.span
        if segment.is_wait or span.kind in (Kind.COMPUTE, Kind.COPY):
            return None if compute is None else (COMPUTE, compute)
        task = span.task
        size = max([task.size, *(task.loads.totals if task.loads is not None else ())])
        if task.collective is Collective.BARRIER or known is None:
            return None if known is None else (COMPUTE, 0.0)
        return known.of(str(task.collective), size, across=across.get(task.group or "", True))

    return spread_of


def served_spreads(
    cluster: Cluster, workers: int, size: float, servers: float | None, *, measured: bool = False
) -> Callable[[tuple[str, float]], Known]:
    """The spread of the parts (bound, seconds) of a step with dedicated parameter servers.

    Its messages have about `size` bytes; `servers` is the spread of the servers' times. Waiting for others is waiting
    for servers.
    """
    compute = _compute(cluster, range(workers), measured)
    known = cluster.transport.spread
    message = known.of(str(Collective.SEND_RECV), size, across=True) if known is not None else None

    def spread_of(part: tuple[str, float]) -> Known:
        bound, _ = part
        if bound == COMPUTE:
            return None if compute is None else (COMPUTE, compute)
        if bound in (QUEUE, SERVICE, LATE):
            return None if servers is None else (SERVERS, servers)
        return message

    return spread_of


def _compute(cluster: Cluster, gpus: Sequence[int], measured: bool) -> float | None:
    """The largest spread of compute on `gpus`; None if that of a device is not known."""
    if measured:
        return MEASURED
    known = [gpu.spread for gpu, _ in cluster.devices(gpus)]
    return None if None in known else max(spread for spread in known if spread is not None)
