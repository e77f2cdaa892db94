"""Groups of few batches with one message each: as `dessim.sim.fluid.groups.Shared`, but in plain numbers.

Parameter servers send their messages one by one, and every message that begins or ends changes the group. For few
messages numpy would spend most of its time on calls, so lists and floats are several times as fast. Rates are those of
`dessim.sim.fluid.maxmin`, round by round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dessim.cluster import Cluster
from dessim.sim.core.bounds import FLOW_CAP
from dessim.sim.core.counters import Counters
from dessim.sim.fluid.batches import Batch, due
from dessim.sim.fluid.drain import RELATIVE_ROUNDING
from dessim.sim.fluid.few_flows import FewRates

_MOST_MESSAGES = 64
"""For more messages, numpy is faster."""


def are_few_singles(batches: Sequence[Batch], cluster: Cluster) -> bool:
    """Whether `Singles` can drain `batches`: one message each, none of which waits for others or for a route."""
    return len(batches) <= _MOST_MESSAGES and all([batch.is_single(cluster) for batch in batches])


class Singles:
    """Batches of one message each that share links and drain together. All of them have a route."""

    def __init__(self, batches: list[Batch], now: float, cluster: Cluster, counters: Counters, rates: FewRates) -> None:
        self.batches = batches
        self._now = now
        self._links = cluster.links
        self._counters = counters
        self._rates = rates
        self._solves = 0
        messages = [batch.one_message(cluster) for batch in batches]
        self._flows = [(message.path, message.cap) for message in messages]
        self._left: list[float] = [batch.remaining.item() for batch in batches]
        self._negligible = [left * RELATIVE_ROUNDING for left in self._left]
        self._rate: list[float] = []
        self._until_finish = math.inf
        self._bound = [-1] * len(batches)
        self._carried_per_byte = np.array([message.carried_per_byte for message in messages])
        self._count_stages_so_far()
        self._solve()
        self._next_event = self._when_next()

    def next_event(self) -> float:
        return self._next_event

    def step(self, now: float) -> list[Batch]:
        """Drain until `now`. Returns the batches whose stage has arrived."""
        self._drain(now)
        self._next_event = self._when_next()
        return [
            batch for batch, left in zip(self.batches, self._left, strict=True) if not left and due(batch.arrived, now)
        ]

    def release(self, now: float) -> int:
        """Return the remaining bytes to the batches. Returns the number of solves."""
        self._drain(now)
        for batch, left in zip(self.batches, self._left, strict=True):
            batch.remaining[0] = left
        return self._solves

    def _drain(self, now: float) -> None:
        # Rounding may put `now` just before a finish, but never after it.
        seconds = self._until_finish if due(self._now + self._until_finish, now) else now - self._now
        start, self._now = self._now, now
        if not seconds or not any(self._left):
            return
        before = self._left
        self._left = [left - rate * seconds for left, rate in zip(before, self._rate, strict=True)]
        finished = [i for i, left in enumerate(self._left) if before[i] and left <= self._negligible[i]]
        for i in finished:
            self._left[i] = 0.0
            batch = self.batches[i]
            colour = int(batch.flows.folded.colour[0])
            bound = self._bound[i]
            name = self._links.kinds[int(self._links.kind[bound])] if bound >= 0 else FLOW_CAP
            reduction = float(batch.flows.reduction[colour]) * batch.scale
            batch.note_drained(now, name, float(batch.flows.fixed[colour]), reduction)
        drained = np.array(before) - np.array(self._left)
        self._counters.carried(start, now, drained @ self._carried_per_byte)
        if finished:
            self._solve()
        else:
            self._until_finish = self._seconds_until_finish()

    def _when_next(self) -> float:
        arrivals = [batch.arrived for batch, left in zip(self.batches, self._left, strict=True) if not left]
        return min([*arrivals, self._now + self._until_finish])

    def _seconds_until_finish(self) -> float:
        """Seconds until the next message has drained; inf if all have."""
        return min([left / rate for left, rate in zip(self._left, self._rate, strict=True) if left], default=math.inf)

    def _solve(self) -> None:
        """Solve the rates of the messages that have bytes left."""
        active = [i for i, left in enumerate(self._left) if left]
        self._rate = [0.0] * len(self._left)
        if active:
            self._solves += 1
            rates, bounds = self._rates.of(tuple([self._flows[i] for i in active]))
            for i, rate, bound in zip(active, rates, bounds, strict=True):
                self._rate[i] = rate
                self._bound[i] = bound
        self._until_finish = self._seconds_until_finish()

    def _count_stages_so_far(self) -> None:
        """Enter the bytes that current stages carried while their batches were alone: all but those that are left."""
        for batch, left, per_byte in zip(self.batches, self._left, self._carried_per_byte, strict=True):
            batch.fresh = False
            batch.blocked_since = math.inf
            if not batch.counted:
                whole = batch.flows.bytes_by_kind * batch.scale
                self._counters.carried(batch.began, self._now, np.maximum(whole - left * per_byte, 0.0))
                batch.counted = True
