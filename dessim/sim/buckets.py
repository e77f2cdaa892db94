"""Token buckets: a link that has been idle lets a burst pass at once, then keeps its rate.

The virtual clock of a link (the generic cell rate algorithm, ITU-T I.371) is when it would be done had it never let
more pass than its rate. A link of rate C and burst B may run B/C ahead of it, no more; idle, it catches up.
"""

from __future__ import annotations

import numpy as np

from dessim.cluster import Cluster
from dessim.sim.flows import Flows
from dessim.sim.maxmin import Floats

_MOST = 0.999
"""Share of a message; the rest stays, so that there is one to arrive."""
_BUSIEST = 0.99


class Buckets:
    """The buckets of all links, full at first. A bucket holds `cluster.transport.burst` bytes."""

    def __init__(self, cluster: Cluster) -> None:
        self._burst = cluster.transport.burst
        self._capacity = cluster.links.capacity
        self._done: Floats = np.zeros(len(cluster.links))  # the virtual clocks

    def take(self, flows: Flows, scale: float, repeat: int, now: float) -> float:
        """The share of `repeat` stages that begin `now` which the busiest links let pass at once in the first one."""
        assert flows.needs is not None
        needs, links = flows.needs * scale, flows.links
        longest = float(needs.max(initial=0.0))
        if not longest > 0:
            return 0.0
        behind = np.maximum(self._done[links] - now, 0.0)
        with np.errstate(divide="ignore"):
            ahead = np.maximum(self._burst / self._capacity[links] - behind, 0.0)
        self._done[links] = now + behind + needs * repeat
        return min(float(ahead[needs >= _BUSIEST * longest].min()) / longest, _MOST)
