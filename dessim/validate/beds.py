"""A bed as this machine can carry it: slower where all its hosts together would keep the cores busy.

A shaper that is not punctual, and packets that wait for a core, are the machine's and no network's. On two cores,
collectives of hosts that send 480 Mb/s in all took what they take within 1 %; at 800 Mb/s those of short segments took
5 to 20 % longer, and never twice the same.
"""

from __future__ import annotations

import os
from dataclasses import replace

from dessim import lab
from dessim.cluster import Cluster
from dessim.cluster.parts import Transport
from dessim.cluster.scaled import scaled

A_CORE = 30e6
"""Payload bytes/s that hosts may send in all for each core: 251 Mb/s of frames."""


def cores() -> int:
    """Those this process may use."""
    return len(os.sched_getaffinity(0))


def scale_for(cluster: Cluster, n_cores: int) -> float:
    """Rates of the lab over rates of the file: 1 unless the machine is too small."""
    sent = float(cluster.links.capacity[cluster.links.of_kind("nic_up")].sum())
    return min(1.0, round(A_CORE * n_cores / sent, 3))


def at_scale(cluster: Cluster, scale: float, transport: Transport) -> Cluster:
    """The cluster as the lab builds it at that scale, with a transport that was calibrated on a bed of slow links.

    The burst of fast links is larger, as the lab's shapers have it.
    """
    slower = scaled(scaled(cluster, "nic_rate", scale), "uplink_rate", scale) if scale != 1.0 else cluster
    slowest = min(node.nic.rate for node in slower.nodes)
    burst = transport.burst * lab.burst_of(slowest) / lab.burst_of(0.0)
    return replace(slower, transport=replace(transport, burst=burst))
