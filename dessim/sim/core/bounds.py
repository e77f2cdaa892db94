"""The names of bottlenecks: the keys of `Parts`, and the values of `bound_by` in results.

Beside these names, a bottleneck may be a class of links, named as in `Links.kinds` ("nic_up", "leaf_up", ...).
"""

from __future__ import annotations

from collections.abc import Mapping

Parts = Mapping[str, float]
"""Seconds per bottleneck."""

COMPUTE = "compute"
LATENCY = "latency"
"""Overheads of calls and messages, and the propagation delay of links."""
FLOW_CAP = "flow cap"
"""The rate that one flow reaches on an idle link (`Transport.flow_rate`)."""
REDUCTION = "reduction"
"""Receivers that add up data that has arrived."""
LATE = "late rank"
"""A rank that has not arrived yet, or has not sent yet."""
CORES = "cores"
"""A thread that is ready to run but waits for a core that other ranks use."""
QUEUE = "server queue"
"""A request that waits for a thread of a parameter server."""
SERVICE = "server"
"""A parameter server that works on a request."""


def add_parts(total: dict[str, float], more: Parts, times: float = 1) -> None:
    """Add `times` times `more` to `total` in place. Parts that took no time are left out."""
    for bound, seconds in more.items():
        if seconds * times > 0:
            total[bound] = total.get(bound, 0.0) + seconds * times
