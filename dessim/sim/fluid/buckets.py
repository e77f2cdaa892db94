"""Token buckets: a link that has been idle lets a burst pass at once, then keeps its rate.

The virtual clock of a link (the generic cell rate algorithm, ITU-T I.371) is when it would be done had it never let
more pass than its rate. A link of rate C and burst B may run B/C ahead of it, no more; idle, it catches up.

A sender's burst is its first message's, or the first's after a pause; what passes at once never meets anybody.
"""

from __future__ import annotations

import numpy as np

from dessim.arrays import Bools, Floats
from dessim.cluster import Cluster
from dessim.sim.fluid.flows import Flows, incidence

_MOST = 0.999
"""Share of a message; the rest stays, so that there is one to arrive."""


class Buckets:
    """The buckets of all links, full at first. A bucket holds `cluster.transport.burst` bytes."""

    def __init__(self, cluster: Cluster) -> None:
        self._burst = cluster.transport.burst
        self._done: Floats = np.zeros(len(cluster.links))  # the virtual clocks

    def take(self, cluster: Cluster, flows: Flows, size: Floats, repeat: int, now: float) -> Floats:
        """Of messages of `size` [n] bytes that set out `now` and are repeated, the bytes [n] that pass at once."""
        net, _, _ = incidence(cluster, flows.src, flows.dst, flows.trees, flows.size)
        behind = np.maximum(self._done - now, 0.0)
        left = np.maximum(self._burst - behind * net.capacity, 0.0)
        of_path = np.full(len(size), np.inf)
        np.minimum.at(of_path, net.flow, left[net.link])
        slowest = np.full(len(size), np.inf)
        np.minimum.at(slowest, net.flow, net.capacity[net.link])
        first = self._after_a_pause(flows, size, slowest)
        load = np.bincount(net.link, net.weight * size[net.flow], minlength=len(net.capacity))
        used = load > 0
        self._done[used] = now + behind[used] + repeat * load[used] / net.capacity[used]
        return np.where(first, np.minimum(of_path, _MOST * size), 0.0)

    def _after_a_pause(self, flows: Flows, size: Floats, rate: Floats) -> Bools:
        """Which messages [n] find their sender idle for as long as its bucket needs to fill, when each has its path to
        itself: `rate` [n] bytes/s."""
        begins = np.zeros(len(size)) if flows.begins is None else flows.begins
        if flows.after is not None:
            begins = np.where(flows.after >= 0, (begins + size / rate)[flows.after], begins)
        first = np.zeros(len(size), dtype=bool)
        over: dict[int, float] = {}
        for message in np.argsort(begins, kind="stable").tolist():
            sender, begin, takes = int(flows.src[message]), float(begins[message]), float(size[message] / rate[message])
            first[message] = begin >= over.get(sender, -np.inf) + self._burst / rate[message]
            over[sender] = max(over.get(sender, 0.0), begin) + takes
        return first
