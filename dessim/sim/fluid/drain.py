"""Flows that drain at max-min rates: the fluid part of the network, without a clock of its own.

A `Fluid` holds the remaining bytes of a set of (folded) flows. The owner asks when the next flow finishes, advances by
no more than that, and learns which have finished; rates are solved again only when something finished.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.errors import PhysicsError
from dessim.sim.fluid.maxmin import Incidence, max_min_rates
from dessim.sim.fluid.pivot import PivotFluid
from dessim.sim.fluid.slices import drain_in_slices
from dessim.sim.progress import Progress

_DONE = 1e-12  # of a flow's size: what rounding may leave
_OVER = 1e-9  # relative excess of a link's load that is still rounding
_FEW = 100  # flows; fewer are solved anew at each finish in less time than pivoting takes
_SPARSE = 16  # entries of pivoting's dense matrix, links by links, for each link that a flow crosses


@dataclass(frozen=True, slots=True)
class Chain:
    """Flows that wait for others: flow i begins when `after[i]` [n_flows] has arrived (-1: at once), which is
    `delay[after[i]]` [n_flows] seconds after it has drained. `left` [n_flows]: of delays that run already, what is
    left.
    """

    after: Ints
    delay: Floats
    left: Floats | None = None

    @property
    def rounding(self) -> float:
        """Seconds that are none."""
        return _DONE * float(self.delay.max(initial=0.0))

    def countdown(self, size: Floats) -> Floats:
        """Seconds until each may begin when `size` [n_flows] bytes are left; inf: it waits for one that drains."""
        waits = (self.after >= 0) & (size[self.after] > 0)
        left = np.zeros(len(size)) if self.left is None else self.left
        return np.where(waits, np.inf, np.where(np.isfinite(left), left, 0.0))


class Fluid:
    """Draining flows. `size` [n_flows] bytes; flows of zero bytes count as finished from the start.

    `chain` says which of them wait for others."""

    def __init__(self, net: Incidence, size: Floats, chain: Chain | None = None) -> None:
        self._net = net
        self._small = size * _DONE
        self._chain = chain
        self.remaining = size.astype(np.float64, copy=True)
        self.active = size > 0
        self.countdown = np.zeros(net.n_flows) if chain is None else chain.countdown(size)  # seconds; inf: waits
        self.active &= self.countdown <= 0
        self.rate = np.zeros(net.n_flows)
        self.bound = np.full(net.n_flows, -1, dtype=np.int64)  # the link that bounds each flow
        self.solves = 0
        self._solve()

    @property
    def empty(self) -> bool:
        return not bool((self.active if self._chain is None else self.remaining > 0).any())

    def next_finish(self) -> float:
        """Seconds until the next flow finishes, or begins; inf when none is left."""
        seconds = np.inf
        if self.active.any():
            seconds = float((self.remaining[self.active] / self.rate[self.active]).min())
        if self._chain is not None:
            coming = (self.remaining > 0) & ~self.active
            seconds = min(seconds, float(self.countdown[coming].min(initial=np.inf)))
        return seconds

    def advance(self, seconds: float) -> Ints:
        """Let `seconds` pass (at most `next_finish`). Returns the flows that finished, and solves again if any did."""
        self.remaining[self.active] -= self.rate[self.active] * seconds
        finished = np.flatnonzero(self.active & (self.remaining <= self._small))
        self.remaining[finished] = 0.0
        self.active[finished] = False
        began = False if self._chain is None else self._begin(self._chain, seconds, finished)
        if len(finished) or began:
            self._solve()
        return finished

    def _begin(self, chain: Chain, seconds: float, finished: Ints) -> bool:
        """Let those begin that waited long enough; whether any did."""
        waits = (self.remaining > 0) & ~self.active
        self.countdown[waits] -= seconds
        heard = waits & np.isin(chain.after, finished)
        self.countdown[heard] = chain.delay[chain.after[heard]]
        begins = waits & (self.countdown <= chain.rounding)
        self.countdown[begins] = 0.0
        self.active |= begins
        return bool(begins.any())

    def _solve(self) -> None:
        if not self.active.any():
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


def start_draining(net: Incidence, size: Floats, chain: Chain | None = None) -> Fluid | PivotFluid:
    """The fluid that suits the network: many different flows over few links are followed by pivoting. Where links are
    many (a tree over a torus), solving anew from the few flows is up to a hundred times faster.

    Pivoting knows links of constant capacity only, no caps, and no flows that wait; and it needs a link, which flows
    that have all drained (and only have to arrive) do not use.
    """
    links = len(net.capacity)
    constant = net.cap is None and net.fan_in is None and chain is None
    if constant and net.n_flows > _FEW and 0 < links**2 <= _SPARSE * len(net.flow):
        return PivotFluid(net, size)
    return Fluid(net, size, chain)


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
    net: Incidence, size: Floats, tolerance: float = 0.0, progress: Progress | None = None, chain: Chain | None = None
) -> Drained:
    """Drain a network. `tolerance`, a share of the makespan, is how far a finish may be off, where many different flows
    would else be followed finish by finish. Raises OutOfTime when `progress` says so.
    """
    fluid = start_draining(net, size, chain)
    if tolerance > 0 and isinstance(fluid, PivotFluid):
        return Drained(*drain_in_slices(net, size, tolerance, progress))
    finish = np.zeros(net.n_flows)
    bound = np.full(net.n_flows, -1, dtype=np.int64)
    now, steps, over = 0.0, 0, 0
    while not fluid.empty:
        if progress is not None:
            progress.tick(over, net.n_flows, "flows")  # a finish costs the same, early or late
        step, last = fluid.next_finish(), fluid.bound.copy()
        done = fluid.advance(step)
        now += step
        steps += 1
        over += len(done)
        bound[done] = last[done]
        finish[done] = now
    return Drained(finish, bound, steps)
