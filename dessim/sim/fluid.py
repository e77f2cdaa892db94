"""Flows that drain at max-min rates: the fluid part of the network, without a clock of its own.

A `Fluid` holds the remaining bytes of a set of (folded) flows. The owner asks when the next flow finishes, advances by
no more than that, and learns which have finished; rates are solved again only when something finished.
"""

from __future__ import annotations

import numpy as np

from dessim.errors import PhysicsError
from dessim.sim.maxmin import Floats, Incidence, Ints, max_min_rates

_DONE = 1e-12  # of a flow's size: what rounding may leave
_OVER = 1e-9  # relative excess of a link's load that is still rounding


class Fluid:
    """Draining flows. `size` [n_flows] bytes; flows of zero bytes count as finished from the start."""

    def __init__(self, net: Incidence, size: Floats) -> None:
        self._net = net
        self._small = size * _DONE
        self.remaining = size.astype(np.float64, copy=True)
        self.active = size > 0
        self.rate = np.zeros(net.n_flows)
        self.bound = np.full(net.n_flows, -1, dtype=np.int64)  # the link that bounds each flow
        self.solves = 0
        self._solve()

    @property
    def empty(self) -> bool:
        return not bool(self.active.any())

    def next_finish(self) -> float:
        """Seconds until the next flow finishes; inf when none is left."""
        if self.empty:
            return np.inf
        return float((self.remaining[self.active] / self.rate[self.active]).min())

    def advance(self, seconds: float) -> Ints:
        """Let `seconds` pass (at most `next_finish`). Returns the flows that finished, and solves again if any did."""
        self.remaining[self.active] -= self.rate[self.active] * seconds
        finished = np.flatnonzero(self.active & (self.remaining <= self._small))
        if len(finished):
            self.remaining[finished] = 0.0
            self.active[finished] = False
            self._solve()
        return finished

    def _solve(self) -> None:
        if self.empty:
            return
        keep = self.active[self._net.flow]
        net = Incidence(
            self._net.n_flows,
            self._net.flow[keep],
            self._net.link[keep],
            self._net.weight[keep],
            self._net.capacity,
        )
        # Flows that are done get a cap of zero, so that the solver leaves them out.
        self.rate, self.bound = max_min_rates(net, np.where(self.active, np.inf, 0.0))
        self.solves += 1
        load = np.bincount(net.link, net.weight * self.rate[net.flow], minlength=len(net.capacity))
        if (load > net.capacity * (1 + _OVER)).any():
            raise PhysicsError("a link carries more than its capacity; please report this")
        if not (self.rate[self.active] > 0).all() or not np.isfinite(self.rate[self.active]).all():
            raise PhysicsError("a flow with bytes left has no usable rate; please report this")


def drain(net: Incidence, size: Floats) -> tuple[Floats, Ints, int]:
    """Finish times [n_flows] in seconds when all flows start at 0 alone, the link that bound each at its end, and the
    number of solves."""
    fluid = Fluid(net, size)
    finish = np.zeros(net.n_flows)
    bound = np.full(net.n_flows, -1, dtype=np.int64)
    now = 0.0
    while not fluid.empty:
        step = fluid.next_finish()
        last = fluid.bound
        done = fluid.advance(step)
        now += step
        finish[done] = now
        bound[done] = last[done]
    return finish, bound, fluid.solves
