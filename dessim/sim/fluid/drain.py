"""Flows that drain at max-min rates: the fluid part of the network. It keeps no clock.

A `Fluid` holds the remaining bytes of a set of (folded) flows. Its owner asks when the next flow finishes, advances by
at most that time, and learns which flows have finished. Rates are solved again only when a flow has finished or begun.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.errors import PhysicsError
from dessim.sim.fluid.maxmin import Incidence, max_min_rates
from dessim.sim.fluid.pivot import PivotFluid
from dessim.sim.fluid.slices import drain_in_slices
from dessim.sim.progress import Progress

RELATIVE_ROUNDING = 1e-12  # share of a flow's bytes, or of the longest delay, that rounding may leave
OVERLOAD_ROUNDING = 1e-9  # relative excess of a link's load that is still rounding
_MIN_PIVOTED_FLOWS = 100  # for fewer flows, solving again at each finish is faster than pivoting
_MAX_MATRIX_PER_ENTRY = 16  # entries of pivoting's dense links x links matrix per entry of the incidence


@dataclass(frozen=True, slots=True)
class Chain:
    """Flows that wait for others: flow i begins when flow `after[i]` [n_flows] has arrived (-1: it waits for none).

    Flow j arrives `delay[j]` [n_flows] seconds after it has drained. A flow that waits for none, or for one that has
    drained before the start, begins `left` [n_flows] seconds after the start.
    """

    after: Ints
    delay: Floats
    left: Floats | None = None

    @property
    def rounding(self) -> float:
        """Seconds so short that they count as 0."""
        return RELATIVE_ROUNDING * float(self.delay.max(initial=0.0))

    def countdown(self, size: Floats) -> Floats:
        """Seconds [n_flows] until flows may begin if `size` [n_flows] bytes remain; inf: another must drain first."""
        waits = (self.after >= 0) & (size[self.after] > 0)
        left = np.zeros(len(size)) if self.left is None else self.left
        return np.where(waits, np.inf, np.where(np.isfinite(left), left, 0.0))


class Fluid:
    """Draining flows of `size` [n_flows] bytes; flows of 0 bytes have finished from the start.

    `chain` says which of them wait for others. Rates are solved from scratch whenever they change.
    """

    def __init__(self, net: Incidence, size: Floats, chain: Chain | None = None) -> None:
        self._net = net
        self._negligible = size * RELATIVE_ROUNDING
        self._chain = chain
        self.remaining = size.astype(np.float64, copy=True)
        self.active = size > 0
        self.countdown = np.zeros(net.n_flows) if chain is None else chain.countdown(size)  # s until a flow begins
        self.active &= self.countdown <= 0
        self.rate = np.zeros(net.n_flows)
        self.bound = np.full(net.n_flows, -1, dtype=np.int64)  # the link that bounds each flow
        self.solves = 0
        self._solve()

    @property
    def empty(self) -> bool:
        return not np.count_nonzero(self.active if self._chain is None else self.remaining)

    def next_finish(self) -> float:
        """Seconds until the next flow finishes or begins; inf if none is left."""
        seconds = np.inf
        if np.count_nonzero(self.active):
            seconds = float((self.remaining[self.active] / self.rate[self.active]).min())
        if self._chain is not None:
            waiting = (self.remaining > 0) & ~self.active
            seconds = min(seconds, float(self.countdown[waiting].min(initial=np.inf)))
        return seconds

    def advance(self, seconds: float) -> Ints:
        """Let `seconds` pass (at most `next_finish`). Returns the flows that finished."""
        self.remaining[self.active] -= self.rate[self.active] * seconds
        finished = np.flatnonzero(self.active & (self.remaining <= self._negligible))
        self.remaining[finished] = 0.0
        self.active[finished] = False
        some_began = False if self._chain is None else self._begin(self._chain, seconds, finished)
        if len(finished) or some_began:
            self._solve()
        return finished

    def _begin(self, chain: Chain, seconds: float, finished: Ints) -> bool:
        """Start the flows whose wait ends after `seconds`. Returns whether there were any."""
        waits = (self.remaining > 0) & ~self.active
        self.countdown[waits] -= seconds
        if len(finished):
            ended = np.zeros(len(waits) + 1, dtype=bool)  # the last entry, -1, is for flows that wait for none
            ended[finished] = True
            triggered = waits & ended[chain.after]
            self.countdown[triggered] = chain.delay[chain.after[triggered]]
        begins = waits & (self.countdown <= chain.rounding)
        self.countdown[begins] = 0.0
        self.active |= begins
        return bool(np.count_nonzero(begins))

    def _solve(self) -> None:
        active = self.active
        if not np.count_nonzero(active):
            return
        net = self._net.of_flows(active)
        if self._chain is None:
            self._net = net  # no flow begins again
        # Flows without links need a finite cap. A cap of 0 makes the solver skip those that have finished.
        self.rate, self.bound = max_min_rates(net, np.where(active, np.inf, 0.0))
        self.solves += 1
        load = np.bincount(net.link, net.weight * self.rate[net.flow], minlength=len(net.capacity))
        if np.count_nonzero(load > net.effective_capacity() * (1 + OVERLOAD_ROUNDING)):
            raise PhysicsError("a link carries more than its capacity; please report this")
        rate = self.rate[active]
        if np.count_nonzero((rate > 0) & np.isfinite(rate)) < len(rate):
            raise PhysicsError("a flow with bytes left has no usable rate; please report this")


def start_draining(net: Incidence, size: Floats, chain: Chain | None = None) -> Fluid | PivotFluid:
    """The kind of fluid that is faster for the network. Both give the same rates.

    Pivoting suits many different flows over few links. Over many links (a tree over a torus) it would need a large
    dense matrix, and solving again for the few flows that are left is up to a hundred times faster. Pivoting supports
    neither caps, nor fan-in, nor flows that wait for others, and it needs at least one link. There is no link when all
    flows have drained and only their latency remains.
    """
    n_links = len(net.capacity)
    supported = net.cap is None and net.fan_in is None and chain is None
    if supported and net.n_flows > _MIN_PIVOTED_FLOWS and 0 < n_links**2 <= _MAX_MATRIX_PER_ENTRY * len(net.flow):
        return PivotFluid(net, size)
    return Fluid(net, size, chain)


@dataclass(frozen=True, slots=True)
class Drained:
    """The finishes of flows that all started at time 0, with the network to themselves.

    `finish` [n_flows] is in seconds; `bound` [n_flows] is the link that bound each flow when it finished (-1: its cap);
    `solves` is how often rates were solved. `error` bounds the error of a finish, as a share of the last finish; it is
    0 if every finish was simulated.
    """

    finish: Floats
    bound: Ints
    solves: int
    error: float = 0.0


def drain(
    net: Incidence, size: Floats, tolerance: float = 0.0, progress: Progress | None = None, chain: Chain | None = None
) -> Drained:
    """Drain flows of `size` [n_flows] bytes to the end.

    `tolerance` is the error allowed for a finish, as a share of the makespan. It has an effect only on many different
    flows, each of whose finishes would have to be simulated otherwise. Raises OutOfTime when the time budget of
    `progress` is spent.
    """
    fluid = start_draining(net, size, chain)
    if tolerance > 0 and isinstance(fluid, PivotFluid):
        return Drained(*drain_in_slices(net, size, tolerance, progress))
    finish = np.zeros(net.n_flows)
    bound = np.full(net.n_flows, -1, dtype=np.int64)
    now = 0.0
    steps = 0
    n_finished = 0
    while not fluid.empty:
        if progress is not None:
            progress.tick(n_finished, net.n_flows, "flows")  # every finish costs about the same
        step = fluid.next_finish()
        bound_before = fluid.bound.copy()
        finished = fluid.advance(step)
        now += step
        steps += 1
        n_finished += len(finished)
        bound[finished] = bound_before[finished]
        finish[finished] = now
    return Drained(finish, bound, steps)
