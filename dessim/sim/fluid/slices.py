"""Many different flows drained within a tolerance: time is cut into equal slices, and rates are solved once per slice.

Where thousands of flows finish at thousands of instants, most finishes hardly change the rates of other flows. Within a
slice every flow drains at its max-min rate, but no faster than it needs to finish at the end of the slice. A flow that
ends in the slice is therefore capped at its remaining bytes over the width of the slice. Other flows use the capacity
that it leaves, from the start of the slice. So links are as busy as in the exact solution, every byte is conserved, and
a slice may hold any number of finishes.

Rates within a slice have a second-order error, because the links that bound flows change while others finish. Finish
times are corrected: a flow that ends in a slice finishes when its *level* says (the rate it would have without the
cap). On links that lose many of their flows in the slice (`_MAX_LEVEL_GROWTH`), finishes are simulated one by one while
the rates of all other flows are held constant.

The error of a finish is first order in the width. In all experiments it was at most one slice (two where flows of one
link have different weights). The error reported is a quarter larger, and it is checked: the drain runs a second time
with slices four times as wide. For a first-order error, a third of the largest difference between the two runs is the
error of the finer one. If that is larger, it is reported instead.

Rates of a slice follow from those of the slice before by policy iteration (dessim.sim.fluid.levels).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.arrays import Bools, Floats, Ints
from dessim.sim.fluid.levels import Levels, lowest_links
from dessim.sim.fluid.maxmin import Incidence, max_min_rates
from dessim.sim.progress import Progress

_COARSE_RATIO = 4.0  # how much wider the slices of the coarse drain are
_FIRST_WIDTH = 0.75  # of the tolerance; usually narrow enough
_ERROR_SLICES = 1.25  # the smallest error reported, in slices
_ERROR_SLICES_MIXED_WEIGHTS = (
    2.5  # the same if flows of one link have different weights: ends of heavy ones matter more
)
_MAX_LEVEL_GROWTH = 0.25  # relative growth of a link's level in a slice; beyond it finishes are simulated one by one
_WEIGHT_ROUNDING = 1e-9  # relative; weights this close are equal
_RELATIVE_TIE = 1e-12  # capacities and finish times this close are equal


def drain_in_slices(
    net: Incidence, size: Floats, tolerance: float, progress: Progress | None = None
) -> tuple[Floats, Ints, int, float]:
    """Drain flows of `size` [n_flows] bytes over a network without caps and without fan-in.

    Returns the finish times [n_flows] in seconds, the link that bounds each flow at its end [n_flows], the number of
    slices, and the error of a finish as a share of the last finish, which is at most `tolerance`. Raises OutOfTime when
    the time budget of `progress` is spent.
    """
    net = without_idle_links(net)
    load = np.bincount(net.link, net.weight * size[net.flow], minlength=len(net.capacity))
    makespan = float((load / net.capacity).max(initial=0.0))
    if not makespan:
        return np.zeros(net.n_flows), np.full(net.n_flows, -1, dtype=np.int64), 0, 0.0
    error_slices = _ERROR_SLICES if _has_uniform_weights(net) else _ERROR_SLICES_MIXED_WEIGHTS
    width = _FIRST_WIDTH * tolerance * _ERROR_SLICES / error_slices  # as a share of the makespan
    progress = progress or Progress()
    slices = 0
    while True:
        coarse = _Slices(net, size, _COARSE_RATIO * width * makespan)
        coarse.drain(progress.within(0, 1 + _COARSE_RATIO))
        fine = _Slices(net, size, width * makespan)
        fine.drain(progress.within(1, 1 + _COARSE_RATIO, parts=_COARSE_RATIO))
        slices += coarse.slices + fine.slices
        difference = float(np.abs(fine.finish - coarse.finish).max()) / float(fine.finish.max())
        error = max(error_slices * width, difference / (_COARSE_RATIO - 1))
        if error <= tolerance:
            return fine.finish, fine.bound, slices, error
        width *= 0.8 * tolerance / error


def _has_uniform_weights(net: Incidence) -> bool:
    """Whether on every link all flows have the same weight."""
    lightest = np.full(len(net.capacity), np.inf)
    np.minimum.at(lightest, net.link, net.weight)
    return bool((net.weight <= lightest[net.link] * (1 + _WEIGHT_ROUNDING)).all())


def without_idle_links(net: Incidence) -> Incidence:
    """The network without links that can never bind a flow.

    Such a link is never full: each of its flows also crosses a link with fewer flows, and those links together cannot
    fill it. Examples are the uplinks of a leaf switch that is not oversubscribed. For each flow, the two links with the
    fewest flows are tried as that other link.
    """
    n = len(net.capacity)
    users = np.bincount(net.link, minlength=n)
    order = np.lexsort((users[net.link], net.flow))
    first = np.searchsorted(net.flow, np.arange(net.n_flows + 1))
    idle = np.zeros(n, dtype=bool)
    for rank in (0, 1):
        # Per entry: the entry of the same flow on its link with the fewest flows, or second fewest.
        narrow = order[np.minimum(first[net.flow] + rank, first[net.flow + 1] - 1)]
        pairs, number = np.unique(net.link * n + net.link[narrow], return_inverse=True)
        link = pairs // n
        feeder = pairs % n
        share = np.zeros(len(pairs))
        np.maximum.at(share, number, net.weight / net.weight[narrow])
        max_load = np.bincount(link, share * net.capacity[feeder], minlength=n)
        all_narrower = np.bincount(link, users[feeder] >= users[link], minlength=n) == 0
        idle |= all_narrower & (max_load <= net.capacity * (1 + _RELATIVE_TIE))
    keep = ~idle[net.link]
    return Incidence(net.n_flows, net.flow[keep], net.link[keep], net.weight[keep], net.capacity)


class _Slices:
    """One drain in slices of `width` seconds. Flows that have not finished are numbered from 0 in each slice."""

    def __init__(self, net: Incidence, size: Floats, width: float) -> None:
        self.finish = np.zeros(net.n_flows)
        self.bound: Ints = np.full(net.n_flows, -1, dtype=np.int64)
        self.slices = 0
        self._width = width
        self._flows = np.flatnonzero(size > 0)  # the number in `net` of each flow
        self._left = size[self._flows].astype(np.float64)
        self._levels = Levels(net, self._flows)

    def drain(self, progress: Progress) -> None:
        """Drain all flows; sets `finish`, `bound` and `slices`."""
        now = 0.0
        levels = self._levels
        n_flows = len(self._left)
        before: Floats | None = None
        while len(self._left):
            progress.tick(n_flows - len(self._left), n_flows, "flows")
            cap = self._left / self._width
            path_level = levels.solve(cap)
            if path_level is not before:  # otherwise nothing has changed
                before = path_level
                rate = np.minimum(cap, path_level)
                drained = rate * self._width
                ends = np.flatnonzero(cap <= path_level)
            if len(ends):
                self._note_finishes(now, rate, ends, path_level)
            self._left -= drained
            if len(ends):
                self._keep(np.flatnonzero(cap > path_level))
            now += self._width
            self.slices += 1

    def _note_finishes(self, now: float, rate: Floats, ending: Ints, path_level: Floats) -> None:
        """Set `finish` and `bound` of the flows `ending` in the slice that starts `now`."""
        lowest = lowest_links(self._levels.level, self._levels.link[:, ending])
        finished = self._flows[ending]
        self.finish[finished] = now + self._finishes(rate, _Ending(ending, path_level[ending], lowest))
        self.bound[finished] = self._levels.names[lowest]

    def _keep(self, flows: Ints) -> None:
        self._left = self._left[flows]
        self._flows = self._flows[flows]
        self._levels.keep(flows)

    def _finishes(self, rate: Floats, ending: _Ending) -> Floats:
        """When flows that end in this slice finish, in seconds from its start."""
        width = self._width
        levels = self._levels
        n = len(levels.capacity)
        full = np.isfinite(levels.level)
        served = np.isfinite(ending.level)
        after = np.minimum(np.where(served, self._left[ending.flows] / ending.level, width), width)
        # Flows that end draw less than the level of their link. The level grows by what they leave, relative to the
        # rates of the flows that stay bound by the link.
        freed = np.bincount(ending.lowest[served], (ending.level - rate[ending.flows])[served], minlength=n)
        kept = np.bincount(levels.binds + 1, rate, minlength=n + 1)[1:]
        grows = full & (freed > _MAX_LEVEL_GROWTH * kept)
        # The finish by the level is inexact if the level is infinite or grows a lot, because then every link of the
        # path loses many flows.
        inexact = ~served | grows[ending.lowest]
        if not inexact.any():
            return after
        simulated = grows[levels.binds]
        simulated[ending.flows] = inexact
        # A link whose level grows little limits a flow to that level. On other links the finishes of the other flows
        # matter, so these links are simulated.
        steady = full & ~grows
        limit = levels.path_level(np.where(steady, levels.level, np.inf))[simulated]
        own = levels.load(np.where(simulated, rate, 0.0))
        others = levels.load(np.where(simulated, 0.0, rate))
        capacity = np.where(steady, np.inf, np.maximum(levels.capacity - others, own))
        net = levels.incidence(levels.link[:, simulated], levels.weight[:, simulated], capacity)
        wanted = np.isin(np.flatnonzero(simulated), ending.flows)
        after[inexact] = _simulate_finishes(net, limit, self._left[simulated], wanted, width)[wanted]
        return after


@dataclass(frozen=True, slots=True, eq=False)
class _Ending:
    """The flows that end in a slice; for each, the lowest level on its path, and the link that has it."""

    flows: Ints
    level: Floats
    lowest: Ints


def _simulate_finishes(net: Incidence, limit: Floats, left: Floats, wanted: Bools, width: float) -> Floats:
    """Drain a few flows finish by finish, until the `wanted` ones have finished or `width` seconds have passed.

    `limit` [n_flows] bytes/s caps the flows, which have `left` [n_flows] bytes. Returns when each flow finished, in
    seconds; `width` for those that did not.
    """
    after = np.full(net.n_flows, width)
    active = np.ones(net.n_flows, dtype=bool)
    left = left.copy()
    now = 0.0
    while (active & wanted).any():
        net = net.of_flows(active)
        rate, _ = max_min_rates(net, np.where(active, limit, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            wait = np.where(active & (rate > 0), left / rate, np.inf)
        first = float(wait.min())
        if now + first >= width:
            break
        now += first
        left = left - rate * first
        done = active & (wait <= first * (1 + _RELATIVE_TIE))
        after[done] = now
        active &= ~done
    return after
