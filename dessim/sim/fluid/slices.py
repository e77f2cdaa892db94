"""Many different flows drained within a tolerance: time is cut into equal slices, and rates are solved once in each.

Where thousands of flows finish at thousands of instants, most finishes change the rates of others by next to nothing.
In a slice every flow draws at its max-min rate, but never more than what it still needs: a flow that ends in the slice
is capped at its remaining bytes over the slice's width, and what it leaves goes to others at once. So links stay as
busy as they are, bytes are conserved to the last, and a slice may hold any number of finishes.

What a slice gets wrong is second order for rates (who was bound by what while others finished) and is repaired for the
finishes themselves: a flow that ends in a slice ends when its own level says, and on links that lose many of their
flows in the slice (`_LOSES_MANY`) the finishes are followed one by one, with everybody else's rate held.

The error is first order in the width: a finish is off by a slice at most in all that was tried (by two where flows of
one link have unlike weights). What is reported is a quarter more, and it is checked: the drain is done twice, once with
slices four times as wide, and a first-order error is a third of the largest difference between the two. Where that is
more, it is what is reported.

Rates follow from those of the slice before by policy iteration (Howard 1960): assume what binds each flow, solve the
linear system that says so, let each flow go to the lowest link of its path, and repeat until nobody moves. Where that
does not settle, `max_min_rates` solves from scratch.
"""

from __future__ import annotations

import numpy as np

from dessim.arrays import Bools, Floats, Ints
from dessim.errors import PhysicsError
from dessim.sim.fluid.maxmin import Incidence, max_min_rates
from dessim.sim.progress import Progress

_COARSER = 4.0  # how much wider the slices of the other drain are
_WIDTH = 0.75  # of the tolerance: the first guess, usually narrow enough
_AT_LEAST = 1.25  # slices that the error reported is worth, whatever the two drains say
_UNLIKE = 2.5  # the same where flows of one link have unlike weights: a light one gains much from a heavy one's end
_LOSES_MANY = 0.25  # share by which a link's level grows within a slice
_PASSES = 6  # of policy iteration before solving from scratch
_SETTLED = 1e-6  # relative: moving a flow for less changes nothing that a tolerance would show
_SAME = 1e-12
_OVER = 1e-9
_DENSE = 3000  # links; beyond it a dense system is slower than solving from scratch


def drain_in_slices(
    net: Incidence, size: Floats, tolerance: float, progress: Progress | None = None
) -> tuple[Floats, Ints, int, float]:
    """Finish times [n_flows] in seconds, the link that bounds each flow at its end, how many slices, and the error.

    The error is a share of the last finish, and at most `tolerance`. The network has neither caps nor a fan-in curve.
    """
    net = without_idle_links(net)
    load = np.bincount(net.link, net.weight * size[net.flow], minlength=len(net.capacity))
    makespan = float((load / net.capacity).max(initial=0.0))
    if not makespan:
        return np.zeros(net.n_flows), np.full(net.n_flows, -1, dtype=np.int64), 0, 0.0
    lightest = np.full(len(net.capacity), np.inf)
    np.minimum.at(lightest, net.link, net.weight)
    at_least = _AT_LEAST if (net.weight <= lightest[net.link] * (1 + _OVER)).all() else _UNLIKE
    slices, width, progress = 0, _WIDTH * tolerance * _AT_LEAST / at_least, progress or Progress()
    while True:
        coarse = _Slices(net, size, _COARSER * width * makespan).drain(progress.within(0, 1 + _COARSER))
        fine = _Slices(net, size, width * makespan).drain(progress.within(1, 1 + _COARSER, parts=_COARSER))
        slices += coarse.slices + fine.slices
        apart = float(np.abs(fine.finish - coarse.finish).max()) / float(fine.finish.max())
        error = max(at_least * width, apart / (_COARSER - 1))
        if error <= tolerance:
            return fine.finish, fine.bound, slices, error
        width *= 0.8 * tolerance / error


def without_idle_links(net: Incidence) -> Incidence:
    """The network without links that are never what binds a flow.

    Every flow that crosses such a link also crosses one that fewer flows use, and those together cannot fill it: the
    uplinks of a leaf that is not oversubscribed, say. Either of the two least used links of each flow is tried.
    """
    n = len(net.capacity)
    users = np.bincount(net.link, minlength=n)
    order = np.lexsort((users[net.link], net.flow))
    first = np.searchsorted(net.flow, np.arange(net.n_flows + 1))
    idle = np.zeros(n, dtype=bool)
    for rank in (0, 1):
        least = order[np.minimum(first[net.flow] + rank, first[net.flow + 1] - 1)]
        pairs, number = np.unique(net.link * n + net.link[least], return_inverse=True)
        link, by = pairs // n, pairs % n
        share = np.zeros(len(pairs))
        np.maximum.at(share, number, net.weight / net.weight[least])
        most = np.bincount(link, share * net.capacity[by], minlength=n)
        fewer = np.bincount(link, users[by] >= users[link], minlength=n) == 0
        idle |= fewer & (most <= net.capacity * (1 + _SAME))
    keep = ~idle[net.link]
    return Incidence(net.n_flows, net.flow[keep], net.link[keep], net.weight[keep], net.capacity)


class _Slices:
    """One drain in slices of `width` seconds.

    Of the m flows that are left, `_link` [h, m] names the links and `_weight` the shares they take; shorter paths are
    filled up with the last link, which no flow uses and nothing fills.
    """

    def __init__(self, net: Incidence, size: Floats, width: float) -> None:
        self.finish = np.zeros(net.n_flows)
        self.bound: Ints = np.full(net.n_flows, -1, dtype=np.int64)
        self.slices = 0
        self._width = width
        self._ids = np.flatnonzero(size > 0)
        self._left = size[self._ids].astype(np.float64)
        self._names, link = np.unique(net.link, return_inverse=True)
        self._capacity = np.append(net.capacity[self._names], np.inf)
        place = np.arange(len(net.flow)) - np.searchsorted(net.flow, net.flow)
        shape = (int(place.max(initial=-1)) + 1, net.n_flows)
        links, weights = np.full(shape, len(self._names), dtype=np.int64), np.zeros(shape)
        links[place, net.flow], weights[place, net.flow] = link, net.weight
        self._link, self._weight = links[:, self._ids], weights[:, self._ids]
        self._level = np.full(len(self._capacity), np.inf)
        n = len(self._names)
        self._binds: Ints = np.full(len(self._ids), -1, dtype=np.int64)
        self._matrix = np.zeros((n, n + 1))  # [b, l]: what a level of 1 at b puts on l, through the flows b binds

    def drain(self, progress: Progress) -> _Slices:
        now, width, everyone = 0.0, self._width, len(self._left)
        while len(self._left):
            progress.tick(everyone - len(self._left), everyone, "flows")
            cap = self._left / width
            low = self._solve(cap)
            rate, ends = np.minimum(cap, low), cap <= low
            done = np.flatnonzero(ends)
            lowest = _lowest(self._level, self._link[:, done])
            self.finish[self._ids[done]] = now + self._finishes(rate, done, low[done], lowest)
            self.bound[self._ids[done]] = self._names[lowest]
            self._left -= rate * width
            self._keep(np.flatnonzero(~ends))
            now += width
            self.slices += 1
        return self

    def _keep(self, flows: Ints) -> None:
        self._left, self._ids, self._binds = self._left[flows], self._ids[flows], self._binds[flows]
        self._link, self._weight = self._link[:, flows], self._weight[:, flows]

    def _load(self, of_flow: Floats, flows: Ints | None = None) -> Floats:
        """What links carry when flow `flows[i]` (default: flow i) carries `of_flow[i]`."""
        link, weight = self._link, self._weight
        if flows is not None:
            link, weight = link[:, flows], weight[:, flows]
        parts = (weight * of_flow).ravel()
        return np.bincount(link.ravel(), parts, minlength=len(self._capacity)).astype(np.float64, copy=False)

    def _low(self, level: Floats) -> Floats:
        """The lowest level on each path."""
        low: Floats = level[self._link[0]]
        for links in self._link[1:]:  # faster than min(axis=0), since paths are short
            np.minimum(low, level[links], out=low)
        return low

    # -- rates --------------------------------------------------------------------------------------------------------

    def _solve(self, cap: Floats) -> Floats:
        """The lowest level on each flow's path: its max-min rate unless `cap` is less; inf where no link is full.

        Sets the levels, and which link has the lowest of each path.
        """
        small = len(self._capacity) <= _DENSE and (self._binds >= 0).all()
        if not (small and self._settle(cap)):
            self._from_scratch(cap)
        low = self._low(self._level)
        if (self._load(np.minimum(cap, low)) > self._capacity * (1 + _OVER)).any():
            raise PhysicsError("a link carries more than its capacity; please report this")
        return low

    def _from_scratch(self, cap: Floats) -> None:
        rate, bound = max_min_rates(self._incidence(self._link, self._weight, self._capacity), cap)
        free = bound >= 0
        self._level = np.full(len(self._capacity), -np.inf)
        np.maximum.at(self._level, bound[free], rate[free])
        self._level[self._level < 0] = np.inf
        self._binds[:], self._matrix[:] = -1, 0.0
        self._bind(np.flatnonzero(free), bound[free])

    def _bind(self, flows: Ints, links: Ints) -> None:
        """`flows` are bound by `links` from now on (-1: by none, their cap is less); the matrix follows."""
        for sign, binds in ((-1.0, self._binds[flows]), (1.0, links)):
            some = flows[binds >= 0]
            np.add.at(self._matrix, (binds[binds >= 0], self._link[:, some]), sign * self._weight[:, some])
        self._binds[flows] = links

    def _settle(self, cap: Floats) -> bool:
        """Policy iteration from what bound whom in the slice before. False when it does not settle."""
        n, capacity = len(self._capacity) - 1, self._capacity[:-1]
        ends = cap <= self._low(self._level)
        self._bind(np.flatnonzero(ends), np.full(np.count_nonzero(ends), -1))
        for _ in range(_PASSES):
            ending = np.flatnonzero(ends)
            room = capacity - self._load(cap[ending], ending)[:-1]
            full = np.bincount(self._binds + 1, minlength=n + 1)[1:] > 0
            spare = np.flatnonzero(~full)
            matrix = self._matrix[:, :-1].T.copy()
            matrix[:, spare] = 0.0
            matrix[spare, spare] = 1.0
            try:
                x = np.linalg.solve(matrix, room)
            except np.linalg.LinAlgError:
                return False
            level = np.append(np.where(full, x, np.inf), np.inf)
            short = spare[x[spare] < -_OVER * capacity[spare]]
            for link in short.tolist():
                level[link] = self._fair(link, np.minimum(cap, self._low(level)))
            low = self._low(level)
            ends = cap <= low
            now = np.where(ends, -np.inf, level[self._binds])  # inf where a cap held the flow
            moves = np.flatnonzero((now > low * (1 + _SETTLED)) | (ends & (self._binds >= 0)))
            if not len(moves) and not len(short):
                self._level = level
                return bool((x[full] > 0).all())
            self._bind(moves, np.where(ends[moves], -1, _lowest(level, self._link[:, moves])))
        return False

    def _fair(self, link: int, rate: Floats) -> float:
        """The level at which the flows of `link` fill it, those with less than that keeping their `rate`."""
        place, flow = np.nonzero(self._link == link)
        order = np.argsort(rate[flow])
        weight, rates = self._weight[place, flow][order], rate[flow][order]
        above = np.cumsum(weight[::-1])[::-1]
        below = np.cumsum(weight * rates) - weight * rates
        levels = (self._capacity[link] - below) / above  # if this flow and all faster ones share the rest
        return float(levels[np.argmax(levels <= rates)])

    # -- finishes within the slice ------------------------------------------------------------------------------------

    def _finishes(self, rate: Floats, done: Ints, low: Floats, lowest: Ints) -> Floats:
        """When, in seconds from the start of the slice, the flows `done` end. `low` is the lowest level on the path of
        each, and `lowest` the link that has it."""
        width, n = self._width, len(self._capacity)
        full, served = np.isfinite(self._level), np.isfinite(low)
        after = np.minimum(np.where(served, self._left[done] / low, width), width)
        freed = np.bincount(lowest[served], (low - rate[done])[served], minlength=n)
        kept = np.bincount(self._binds + 1, rate, minlength=n + 1)[1:]
        many = full & (freed > _LOSES_MANY * kept)
        # Flows that nobody else's level holds, or a level that grows a lot: all links of the path lose many flows.
        inexact = ~served | many[lowest]
        if not inexact.any():
            return after
        close = many[self._binds]
        close[done] = inexact
        # Links that change little hold a flow to their level; on the others its neighbours' finishes matter.
        steady = full & ~many
        limit = self._low(np.where(steady, self._level, np.inf))[close]
        own, others = self._load(np.where(close, rate, 0.0)), self._load(np.where(close, 0.0, rate))
        capacity = np.where(steady, np.inf, np.maximum(self._capacity - others, own))
        net = self._incidence(self._link[:, close], self._weight[:, close], capacity)
        ends = np.isin(np.flatnonzero(close), done)
        followed = _follow(net, limit, self._left[close], ends, width)
        after[inexact] = followed[ends]
        return after

    def _incidence(self, link: Ints, weight: Floats, capacity: Floats) -> Incidence:
        """Flows whose entries are the columns of `link`; links of infinite capacity are left out."""
        flow, place = np.nonzero(np.isfinite(capacity[link]).T)
        return Incidence(link.shape[1], flow, link[place, flow], weight[place, flow], capacity)


def _lowest(level: Floats, link: Ints) -> Ints:
    """The link of lowest level of each column of `link` [h, flows]."""
    lowest: Ints = np.take_along_axis(link, level[link].argmin(axis=0)[None], axis=0)[0]
    return lowest


def _follow(net: Incidence, limit: Floats, left: Floats, ends: Bools, width: float) -> Floats:
    """Drain a few flows finish by finish until those of `ends` are done or `width` is over; when each was done."""
    after = np.full(net.n_flows, width)
    active, left, now = np.ones(net.n_flows, dtype=bool), left.copy(), 0.0
    while (active & ends).any():
        keep = active[net.flow]
        part = Incidence(net.n_flows, net.flow[keep], net.link[keep], net.weight[keep], net.capacity)
        rate, _ = max_min_rates(part, np.where(active, limit, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            wait = np.where(active & (rate > 0), left / rate, np.inf)
        first = float(wait.min())
        if now + first >= width:
            break
        now += first
        left = left - rate * first
        done = active & (wait <= first * (1 + _SAME))
        after[done] = now
        active &= ~done
    return after
