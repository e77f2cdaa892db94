"""Token buckets: after an idle period a link passes a burst without delay, then continues at its rate.

A link of rate C and burst B has a *virtual clock*: the time when it would have finished had it never sent faster than
its rate (the generic cell rate algorithm, ITU-T I.371). The clock may be up to B/C ahead of real time; while the link
is idle, real time catches up.

Only the first message of a sender, or the first one after an idle period, has a burst. Burst bytes do not contend for
links with other messages.
"""

from __future__ import annotations

import numpy as np

from dessim.arrays import Bools, Floats
from dessim.cluster import Cluster
from dessim.sim.fluid.maxmin import Incidence
from dessim.sim.fluid.messages import Messages

_MAX_BURST_SHARE = 0.999
"""The largest share of a message that may pass in a burst. The rest drains, so that the message still arrives."""


class Buckets:
    """The buckets of all links, full at first. A bucket holds `cluster.transport.burst` bytes."""

    def __init__(self, cluster: Cluster) -> None:
        self._burst = cluster.transport.burst
        self._clock: Floats = np.zeros(len(cluster.links))  # the virtual clock of each link, in seconds

    def take(self, net: Incidence, messages: Messages, repeat: int, now: float) -> Floats:
        """Take the burst bytes [n_messages] of messages that start `now` over `net`, and return them.

        They are sent `repeat` times.
        """
        size = messages.size
        behind = np.maximum(self._clock - now, 0.0)
        tokens = np.maximum(self._burst - behind * net.capacity, 0.0)
        on_path = np.full(len(size), np.inf)
        np.minimum.at(on_path, net.flow, tokens[net.link])
        slowest = np.full(len(size), np.inf)
        np.minimum.at(slowest, net.flow, net.capacity[net.link])
        first = self._after_idle_period(messages, slowest)
        load = np.bincount(net.link, net.weight * size[net.flow], minlength=len(net.capacity))
        used = load > 0
        self._clock[used] = now + behind[used] + repeat * load[used] / net.capacity[used]
        return np.where(first, np.minimum(on_path, _MAX_BURST_SHARE * size), 0.0)

    def _after_idle_period(self, messages: Messages, rate: Floats) -> Bools:
        """Which messages [n_messages] begin after their sender has been idle for as long as its bucket takes to fill.

        Assumes that each message has its path to itself and drains at `rate` [n_messages] bytes/s.
        """
        size = messages.size
        begins = np.zeros(len(size)) if messages.begins is None else messages.begins
        if messages.after is not None:
            begins = np.where(messages.after >= 0, (begins + size / rate)[messages.after], begins)
        first = np.zeros(len(size), dtype=bool)
        finished: dict[int, float] = {}  # when each sender has sent its messages so far
        for message in np.argsort(begins, kind="stable").tolist():
            sender = int(messages.src[message])
            begin = float(begins[message])
            first[message] = begin >= finished.get(sender, -np.inf) + self._burst / rate[message]
            finished[sender] = max(finished.get(sender, 0.0), begin) + float(size[message] / rate[message])
        return first
