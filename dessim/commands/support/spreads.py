"""The spread of each part of a simulated step: of collectives from the transport, of compute from the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dessim.cluster import Cluster
from dessim.results.critical_path import Segment
from dessim.results.error_bar import SpreadOf
from dessim.sim.core.bounds import QUEUE, SERVICE
from dessim.trace.schema import Collective, Kind

COMPUTE = "compute"
SERVERS = "parameter servers"
MEASURED = 0.05
"""Spread of compute that was measured on the same device: assumed, the variation of an op between runs."""


def spreads_on(
    cluster: Cluster, groups: Mapping[str, Sequence[int]], *, measured: bool = False, servers: float | None = None
) -> SpreadOf:
    """The spread of the segments of a run on `cluster`, whose groups are on the GPUs `groups`.

    `measured`: whether its compute times were measured on such GPUs. `servers` is the spread of parameter servers.
    """
    across = {name: len(np.unique(cluster.node_of(np.asarray(gpus)))) > 1 for name, gpus in groups.items()}
    known = cluster.transport.spread
    gpus = sorted({gpu for members in groups.values() for gpu in members})
    of_devices = [gpu.spread for gpu, _ in cluster.devices(gpus)]
    compute = MEASURED if measured else None if None in of_devices else max(s for s in of_devices if s is not None)

    def spread_of(segment: Segment) -> tuple[str, float] | None:
        span = segment.span
        if segment.is_wait or span.kind in (Kind.COMPUTE, Kind.COPY):
            return None if compute is None else (COMPUTE, compute)
        if span.kind is Kind.P2P:
            served = span.parts.get(QUEUE, 0.0) + span.parts.get(SERVICE, 0.0)
            if servers is not None and served > sum(span.parts.values()) / 2:
                return SERVERS, servers
            return known.of(str(Collective.SEND_RECV), span.task.size, across=True) if known else None
        task = span.task
        size = max([task.size, *(task.loads.totals if task.loads is not None else ())])
        if task.collective is Collective.BARRIER or known is None:
            return None if known is None else (COMPUTE, 0.0)
        return known.of(str(task.collective), size, across=across.get(task.group or "", True))

    return spread_of
