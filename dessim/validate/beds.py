"""Beds (emulated clusters) at rates that this machine can carry.

Where the hosts of a bed together would keep the cores busy, shapers are late and packets wait for a core, which no
network would cause. On two cores, collectives of hosts that send 480 Mb/s in total took the expected time within 1 %.
At 800 Mb/s, those of short segments took 5 to 20 % longer, and varied from run to run. So such beds run slower.
"""

from __future__ import annotations

import os
from dataclasses import replace

from dessim import lab
from dessim.cluster import Cluster
from dessim.cluster.parts import Transport
from dessim.cluster.scaled import scaled

PAYLOAD_RATE_PER_CORE = 30e6
"""Largest payload bytes/s that all hosts together may send, for each core: 251 Mb/s of frames."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def scale_for(cluster: Cluster, n_cores: int) -> float:
    """Return the factor for the bed's rates: 1 unless the machine is too small for the rates of the file."""
    nic_rate = float(cluster.links.capacity[cluster.links.of_kind("nic_up")].sum())
    return min(1.0, round(PAYLOAD_RATE_PER_CORE * n_cores / nic_rate, 3))


def slowed(cluster: Cluster, scale: float) -> Cluster:
    """Return the cluster with `scale` times the rates of its links."""
    return scaled(scaled(cluster, "nic_rate", scale), "uplink_rate", scale) if scale != 1.0 else cluster


def at_scale(cluster: Cluster, scale: float, transport: Transport) -> Cluster:
    """Return the cluster as the lab builds it at `scale`, with a transport that was calibrated on a bed of slow links.

    The lab's shapers allow larger bursts on faster links, so the transport's burst grows with the slowest NIC's rate.
    """
    slower = slowed(cluster, scale)
    slowest_rate = min(node.nic.rate for node in slower.nodes)
    burst = transport.burst * lab.burst_of(slowest_rate) / lab.burst_of(0.0)
    return replace(slower, transport=replace(transport, burst=burst))
