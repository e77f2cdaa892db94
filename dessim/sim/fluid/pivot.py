"""Max-min rates of many different flows, updated at every finish by pivoting instead of solving again.

An uneven all_to_all of n ranks has n(n-1) flows that finish at n(n-1) instants, but it uses only a few n links. Two
facts make each finish cheap, whatever the number of flows:

*Rates belong to links.* In a max-min solution every flow is bound by one link and has the *level* of that link: the
rate of all flows that the link binds. So the rate of a flow is given by a link number. Its remaining bytes are its
*key* minus the *service* of its link, which is the integral of the level over time. Nothing has to be updated for a
flow while others finish.

*Levels solve a linear system.* Let x_l be the level of link l if it is full, otherwise the capacity left on it, its
*room*. Capacity constraints say M x = C, where column l of M sums the weights that the flows bound by l have on each
link (a unit vector if l is not full). M is a basis, as in the simplex method. When a flow finishes or is bound by
another link, M changes by a matrix of rank one, and the new levels follow from one column of the inverse
(dessim.sim.fluid.basis).

The solution is max-min fair while the link that binds each flow has the lowest level on the flow's path and no room is
negative, because each flow then has a bottleneck (Bertsekas and Gallager, Data Networks, section 6.5.2). A flow that
crosses a link of lower level is rebound to that link. A link whose room is negative becomes full and binds its fastest
flow. If this does not settle soon, all rates are solved from scratch, as they are at the start.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.errors import PhysicsError
from dessim.sim.fluid.basis import Basis
from dessim.sim.fluid.maxmin import Incidence, max_min_rates
from dessim.sim.fluid.queues import Queues

_BLOCKS_PER_INVERSION = 16  # blocks of changes before the inverse is recomputed, against drift
_MAX_CHANGES = 40  # rounds of rebinding at one instant before solving from scratch
_RELATIVE_TIE = 1e-12  # relative: levels this close are equal, and flows this close to their end finish together
_MAX_DRIFT = 1e-8  # relative difference between updated and recomputed levels
_MAX_QUEUED_MOVES = 1000  # flows; beyond it, sorting all queues again is faster than moving each
_MIN_PIVOT_LIMIT = 128  # flows; pivoting this many, or half as many as there are links, is faster than inverting M


class PivotFluid:
    """Draining flows, with the interface of `dessim.sim.fluid.drain.Fluid`.

    The network `net` has neither caps nor fan-in; flows have `size` [n_flows] bytes.
    """

    def __init__(self, net: Incidence, size: Floats) -> None:
        n = len(net.capacity)
        self._net = net
        self._negligible = _RELATIVE_TIE * size
        self._path_start = np.searchsorted(net.flow, np.arange(net.n_flows + 1))
        by_link = np.argsort(net.link, kind="stable")
        self._flows_by_link = net.flow[by_link]
        self._link_start = np.searchsorted(net.link[by_link], np.arange(n + 1))
        self.active = size > 0
        self.bound: Ints = np.full(net.n_flows, -1, dtype=np.int64)
        self.solves = 0
        self._service = np.zeros(n)
        self._n_left = int(self.active.sum())
        self._full = np.zeros(n, dtype=bool)
        # [l, b]: how many flows bound by link b cross link l.
        self._crossing: Ints = np.zeros((n, n), dtype=np.int64)
        self._crossed = np.zeros((n, n), dtype=bool)  # self._crossing > 0
        self._max_pivoted = max(_MIN_PIVOT_LIMIT, n // 2)
        # Room for these flows, and for the columns that they empty and fill.
        self._basis = Basis(net.capacity, 3 * self._max_pivoted)
        self._solve(size)

    @property
    def empty(self) -> bool:
        return self._n_left == 0

    @property
    def rate(self) -> Floats:
        """Rates [n_flows] in bytes/s; 0 for flows that have finished."""
        level = np.where(self._full, self._basis.x, 0.0)
        return np.where(self.active, level[self.bound], 0.0)

    @property
    def remaining(self) -> Floats:
        """Bytes left [n_flows]."""
        return np.where(self.active, np.maximum(self._key - self._service[self.bound], 0.0), 0.0)

    def next_finish(self) -> float:
        """Seconds until the next flow finishes; inf if none is left."""
        if self._n_left == 0:
            return np.inf
        with np.errstate(invalid="ignore"):
            waits = np.where(self._full, (self._queues.top - self._service) / self._basis.x, np.inf)
        return max(float(waits.min()), 0.0)

    def advance(self, seconds: float) -> Ints:
        """Let `seconds` pass (at most `next_finish`). Returns the flows that finished."""
        self._service += np.where(self._full, self._basis.x, 0.0) * seconds
        finished: list[int] = []
        queues = self._queues
        for link in np.flatnonzero(queues.top <= self._service * (1 + 2 * _RELATIVE_TIE)).tolist():
            service = self._service[link]
            while (flow := queues.first(link)) >= 0 and self._key[flow] - service <= self._negligible[flow]:
                finished.append(flow)
                self.active[flow] = False
            queues.top[link] = self._key[flow] if flow >= 0 else np.inf
        if finished:
            self._n_left -= len(finished)
            self._remove(finished)
        return np.array(sorted(finished), dtype=np.int64)

    # -- levels -------------------------------------------------------------------------------------------------------

    def _remove(self, flows: list[int]) -> None:
        """Update levels after `flows` have finished."""
        if self._n_left == 0:
            return
        if len(flows) > self._max_pivoted:
            self._count_crossings()
            self._invert()
        elif not self._pivot(np.array(flows), None):
            self._solve(self.remaining)
            return
        self._settle()

    def _settle(self) -> None:
        """Rebind flows until the lowest link of each path binds its flow and no room is negative."""
        if self._basis.blocks >= _BLOCKS_PER_INVERSION:
            self._refresh()
        for _ in range(_MAX_CHANGES):
            relative_room = np.where(self._full, 0.0, self._basis.x / self._net.capacity)
            tightest = int(np.argmin(relative_room))
            if relative_room[tightest] < -_RELATIVE_TIE:
                crossing = self._active_flows(tightest)
                level = self._basis.x[self.bound[crossing]]
                moves = {int(crossing[np.argmax(level)]): tightest}
            else:
                level = np.where(self._full, self._basis.x, np.inf)
                # [l, b]: whether b has a higher level than l. A level may be negative for a while, where flows bound by
                # other links exceed the capacity of a full link. The link then attracts these flows.
                too_high = level > (level + _RELATIVE_TIE * np.abs(level))[:, None]
                too_high &= self._crossed
                links = np.flatnonzero(too_high.any(axis=1))
                if not len(links):
                    return
                row, upper = too_high[links].nonzero()
                moves = self._moves_to_lowest(upper, links[row], level)
            if len(moves) > self._max_pivoted:
                self._rebind_all(np.where(self._full, self._basis.x, np.inf))
            elif not self._rebind(moves):
                break
        self._solve(self.remaining)

    def _refresh(self) -> None:
        """Invert M again. Raises PhysicsError if the updated levels have drifted from the exact ones."""
        before = self._basis.x
        self._invert()
        tolerance = _MAX_DRIFT * float(self._net.capacity.max())
        if not np.allclose(self._basis.x, before, rtol=_MAX_DRIFT, atol=tolerance):
            raise PhysicsError("rates drifted from the loads of links; please report this")

    def _active_flows(self, link: int) -> Ints:
        """Active flows that cross `link`."""
        flows = self._flows_by_link[self._link_start[link] : self._link_start[link + 1]]
        return flows[self.active[flows]]

    def _moves_to_lowest(self, upper: Ints, lower: Ints, level: Floats) -> dict[int, int]:
        """Flows bound by link `upper[i]` that cross link `lower[i]`, each with the link of lowest level on its path.

        Stops when there are too many to pivot.
        """
        moves: dict[int, int] = {}
        for source, target in zip(upper.tolist(), lower.tolist(), strict=True):
            crossing = self._active_flows(target)
            for flow in crossing[self.bound[crossing] == source].tolist():
                links = self._net.link[self._path_start[flow] : self._path_start[flow + 1]]
                moves[flow] = int(links[np.argmin(level[links])])
            if len(moves) > self._max_pivoted:
                break
        return moves

    def _rebind(self, moves: Mapping[int, int]) -> bool:
        """Let link `moves[flow]` bind each flow of `moves`. Returns False if the basis would become singular."""
        flows = np.fromiter(moves, dtype=np.int64)
        left = self._key[flows] - self._service[self.bound[flows]]
        if not self._pivot(flows, np.fromiter(moves.values(), dtype=np.int64)):
            return False
        for (flow, target), remaining in zip(moves.items(), left.tolist(), strict=True):
            self._queues.move(flow, target, float(remaining + self._service[target]))
        return True

    def _rebind_all(self, level: Floats) -> None:
        """Rebind all flows together, each to the link of lowest level on its path, and compute levels from that."""
        net = self._net
        remaining = self.remaining
        level_of_entry = level[net.link]
        lowest = np.minimum.reduceat(level_of_entry, self._path_start[:-1])
        leaves = self.active & (level[self.bound] > lowest + _RELATIVE_TIE * np.abs(lowest))
        entry = np.flatnonzero(leaves[net.flow] & (level_of_entry <= lowest[net.flow]))
        if np.count_nonzero(leaves) < _MAX_QUEUED_MOVES:
            for flow, link in zip(net.flow[entry].tolist(), net.link[entry].tolist(), strict=True):
                self._queues.move(flow, link, float(remaining[flow] + self._service[link]))
        else:
            self.bound[net.flow[entry]] = net.link[entry]
            self._sort_queues(remaining)
        self._count_crossings()
        self._invert()

    # -- the basis ----------------------------------------------------------------------------------------------------

    def _pivot(self, flows: Ints, targets: Ints | None) -> bool:
        """Remove `flows` from the links that bind them, bind them to `targets` if given, and update M and x.

        Each flow moves its path from one column of M to another. A column that loses its last path becomes a unit
        vector, since its link now has room; a unit column that gains a path stops being one. All changes are applied
        together, because the basis might be singular in between. Returns False if it would be singular at the end.
        """
        sources = self.bound[flows]
        counts = self._path_start[flows + 1] - self._path_start[flows]
        starts = np.cumsum(counts) - counts
        entry = np.repeat(self._path_start[flows] - starts, counts) + np.arange(int(counts.sum()))
        links = self._net.link[entry]
        np.subtract.at(self._crossing, (links, np.repeat(sources, counts)), 1)
        if targets is not None:
            np.add.at(self._crossing, (links, np.repeat(targets, counts)), 1)
        emptied, filled = self._update_full(sources if targets is None else np.concatenate([sources, targets]))
        units = np.concatenate([emptied, filled])
        inverse = self._basis.inverse(room_for=len(flows) + len(units))
        paths = np.add.reduceat(self._net.weight[entry][:, None] * inverse[links], starts, axis=0)
        z = np.concatenate([paths, inverse[emptied], -inverse[filled]])
        # A path is added to the column of its target, if any, and subtracted from that of its source. A unit vector is
        # added to an emptied column, and its negative to a filled one.
        gains = np.ones(len(z))
        gains[: len(flows)] = targets is not None
        loses = np.zeros(len(z))
        loses[: len(flows)] = 1.0
        plus = np.concatenate([sources if targets is None else targets, units])
        minus = np.concatenate([sources, units])
        return self._basis.update(z, plus, gains, minus, loses)

    def _update_full(self, touched: Ints) -> tuple[Ints, Ints]:
        """Update which links are full after the crossings of `touched` links have changed.

        Returns the links that bind no flow any more, and those that begin to bind one.
        """
        touched = np.unique(touched)
        self._crossed[:, touched] = self._crossing[:, touched] > 0
        binds = self._crossing[touched, touched] > 0
        was_full = self._full[touched]
        emptied = touched[was_full & ~binds]
        filled = touched[~was_full & binds]
        self._full[touched] = binds
        self._queues.top[emptied] = np.inf
        return emptied, filled

    def _invert(self) -> None:
        """Compute M from the links that bind flows, and invert it."""
        n = len(self._net.capacity)
        net = self._net.of_flows(self.active)
        cell = self.bound[net.flow] * n + net.link
        transposed: Floats = np.bincount(cell, net.weight, minlength=n * n).astype(np.float64, copy=False)
        transposed = transposed.reshape(n, n)
        transposed[~self._full, ~self._full] = 1.0
        self._basis.invert(transposed)

    def _solve(self, remaining: Floats) -> None:
        """Solve rates from scratch, and reset everything that depends on them."""
        _, self.bound = max_min_rates(self._net.of_flows(self.active), np.where(self.active, np.inf, 0.0))
        self.solves += 1
        self._count_crossings()
        self._invert()
        self._service[:] = 0.0
        self._sort_queues(remaining)

    def _sort_queues(self, remaining: Floats) -> None:
        """Compute the key of each flow, its remaining bytes plus the service of its link, and sort the queues."""
        self._key: Floats = remaining + self._service[self.bound]
        self._queues: Queues = Queues(len(self._full), self.active, self.bound, self._key)

    def _count_crossings(self) -> None:
        """Count flows by the links that they cross and the link that binds them. A link that binds a flow is full."""
        n = len(self._net.capacity)
        net = self._net.of_flows(self.active)
        cell = net.link * n + self.bound[net.flow]
        self._crossing = np.bincount(cell, minlength=n * n).reshape(n, n)
        self._crossed = self._crossing > 0
        self._full = self._crossing.diagonal() > 0
