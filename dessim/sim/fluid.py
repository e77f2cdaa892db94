"""Flows that drain at max-min rates: the fluid part of the network, without a clock of its own.

A `Fluid` holds the remaining bytes of a set of (folded) flows. The owner asks when the next flow finishes, advances by
no more than that, and learns which have finished; rates are solved again only when something finished.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dessim.errors import PhysicsError
from dessim.sim.maxmin import Floats, Incidence, Ints, max_min_rates
from dessim.sim.pivot import PivotFluid
from dessim.sim.slices import drain_in_slices
from dessim.sim.watch import Watch

_DONE = 1e-12  # of a flow's size: what rounding may leave
_OVER = 1e-9  # relative excess of a link's load that is still rounding
_FEW = 100  # flows; fewer are solved anew at each finish in less time than pivoting takes
_SPARSE = 16  # entries of pivoting's dense matrix, links by links, for each link that a flow crosses


class Fluid:
    """Draining flows. `size` [n_flows] bytes; flows of zero bytes count as finished from the start.

    `after` [n_flows] names the flow that each waits for before it begins (-1, or one that has finished: none)."""

    def __init__(self, net: Incidence, size: Floats, after: Ints | None = None) -> None:
        self._net = net
        self._small = size * _DONE
        self._after = after
        self.remaining = size.astype(np.float64, copy=True)
        self.active = size > 0
        if after is not None:
            self.active &= (after < 0) | (size[after] <= 0)
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
            if self._after is not None:
                self.active |= np.isin(self._after, finished) & (self.remaining > 0)
            self._solve()
        return finished

    def _solve(self) -> None:
        if self.empty:
            return
        keep = self.active[self._net.flow]
        whole = self._net
        net = replace(whole, flow=whole.flow[keep], link=whole.link[keep], weight=whole.weight[keep])
        # Flows that are done get a cap of zero, so that the solver leaves them out.
        self.rate, self.bound = max_min_rates(net, np.where(self.active, np.inf, 0.0))
        self.solves += 1
        load = np.bincount(net.link, net.weight * self.rate[net.flow], minlength=len(net.capacity))
        if (load > net.carries() * (1 + _OVER)).any():
            raise PhysicsError("a link carries more than its capacity; please report this")
        if not (self.rate[self.active] > 0).all() or not np.isfinite(self.rate[self.active]).all():
            raise PhysicsError("a flow with bytes left has no usable rate; please report this")


def start_draining(net: Incidence, size: Floats, after: Ints | None = None) -> Fluid | PivotFluid:
    """The fluid that suits the network: many different flows over few links are followed by pivoting. Where links are
    many (a tree over a torus), solving anew from the few flows is up to a hundred times faster.

    Pivoting knows links of constant capacity only, no caps, and no flows that wait; and it needs a link, which flows
    that have all drained (and only have to arrive) do not use.
    """
    links = len(net.capacity)
    constant = net.cap is None and net.fan_in is None and after is None
    if constant and net.n_flows > _FEW and 0 < links**2 <= _SPARSE * len(net.flow):
        return PivotFluid(net, size)
    return Fluid(net, size, after)


@dataclass(frozen=True, slots=True)
class Drained:
    """How flows fared that all started at 0, alone.

    `finish` [n_flows] in seconds; `bound` the link that bound each at its end; `solves` how often rates were solved.
    `error` bounds how far finishes may be off, as a share of the last one: 0 when every finish was looked at.
    """

    finish: Floats
    bound: Ints
    solves: int
    error: float = 0.0


def drain(
    net: Incidence, size: Floats, tolerance: float = 0.0, watch: Watch | None = None, after: Ints | None = None
) -> Drained:
    """Drain a network. `tolerance`, a share of the makespan, is how far a finish may be off, where many different flows
    would else be followed finish by finish. Raises OutOfTime when `watch` says so.
    """
    fluid = start_draining(net, size, after)
    if tolerance > 0 and isinstance(fluid, PivotFluid):
        return Drained(*drain_in_slices(net, size, tolerance, watch))
    finish = np.zeros(net.n_flows)
    bound = np.full(net.n_flows, -1, dtype=np.int64)
    now, steps, over = 0.0, 0, 0
    while not fluid.empty:
        if watch is not None:
            watch.tick(over, net.n_flows, "flows")  # a finish costs the same, early or late
        step, last = fluid.next_finish(), fluid.bound.copy()
        done = fluid.advance(step)
        now += step
        steps += 1
        over += len(done)
        bound[done] = last[done]
        finish[done] = now
    return Drained(finish, bound, steps)
