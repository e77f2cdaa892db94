"""Max-min rates of many different flows, followed through every finish by pivoting instead of solving anew.

An uneven all_to_all of n ranks is n(n-1) flows that finish at n(n-1) instants, over only a few n links. Two facts make
each finish cheap, whatever the number of flows:

*Rates live on links.* In a max-min solution every flow is bound by one link and has that link's level: the rate of all
flows it binds. So a rate is a link number, and a flow's remaining bytes are its key minus the service its link has
given since, the integral of the level. Nothing is done to a flow while others finish.

*Levels solve a linear system.* With x_l the level of a full link, or the room left on a link that is not, capacity
says M x = C, where column l of M sums the weights that the flows bound by l put on each link (a unit vector where l is
not full): a basis, as in the simplex method. A flow that finishes, or is bound by another link from now on, changes M
by one rank, and the new levels follow from one column of the inverse (dessim.sim.fluid.basis).

The solution stays max-min fair as long as every flow's own link has the lowest level on its path and no room is
negative (Bertsekas and Gallager, 6.5.2: each flow has a bottleneck). Where a flow crosses a link that has become lower
it changes over; where room runs out the link becomes full and binds its fastest flows. Where that does not settle soon,
everything is solved from scratch, as it is at the start.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.errors import PhysicsError
from dessim.sim.fluid.basis import Basis
from dessim.sim.fluid.maxmin import Incidence, max_min_rates
from dessim.sim.fluid.queues import Queues

_REFRESH = 16  # blocks before the inverse is computed anew, against drift
_PASSES = 40  # changes of binding at one instant before solving from scratch
_SAME = 1e-12  # relative: flows whose ends are this close end together
_DRIFT = 1e-8
_HEAPS = 1000  # flows; queueing more takes longer than sorting all anew
_MANY = 128  # flows that change over at once, or half as many as links; beyond it M is inverted anew


class PivotFluid:
    """Draining flows; the same questions and answers as `dessim.sim.fluid.drain.Fluid`."""

    def __init__(self, net: Incidence, size: Floats) -> None:
        self._net = net
        self._small = _SAME * size
        self._ptr = np.searchsorted(net.flow, np.arange(net.n_flows + 1))
        by_link = np.argsort(net.link, kind="stable")
        self._members = net.flow[by_link]
        self._member_ptr = np.searchsorted(net.link[by_link], np.arange(len(net.capacity) + 1))
        self.active = size > 0
        self.bound: Ints = np.full(net.n_flows, -1, dtype=np.int64)
        self.solves = 0
        n = len(net.capacity)
        self._service = np.zeros(n)
        self._left = int(self.active.sum())
        self._full = np.zeros(n, dtype=bool)
        self._crossing: Ints = np.zeros((n, n), dtype=np.int64)  # [l, b]: flows bound by b that cross l
        self._crossed = np.zeros((n, n), dtype=bool)
        self._many = max(_MANY, n // 2)
        # Room for a change of `_many` flows and the columns it empties and fills.
        self._basis = Basis(net.capacity, 3 * self._many)
        self._solve(size)

    @property
    def empty(self) -> bool:
        return self._left == 0

    @property
    def rate(self) -> Floats:
        """Rates [n_flows] in bytes/s; 0 for flows that are done."""
        level = np.where(self._full, self._basis.x, 0.0)
        return np.where(self.active, level[self.bound], 0.0)

    @property
    def remaining(self) -> Floats:
        """Bytes left [n_flows]."""
        return np.where(self.active, np.maximum(self._key - self._service[self.bound], 0.0), 0.0)

    def next_finish(self) -> float:
        """Seconds until the next flow finishes; inf when none is left."""
        if self._left == 0:
            return np.inf
        return max(float(self._waits().min()), 0.0)

    def advance(self, seconds: float) -> Ints:
        """Let `seconds` pass (at most `next_finish`). Returns the flows that finished."""
        self._service += np.where(self._full, self._basis.x, 0.0) * seconds
        finished: list[int] = []
        queues = self._queues
        for link in np.flatnonzero(queues.top <= self._service * (1 + 2 * _SAME)).tolist():
            reached = self._service[link]
            while (flow := queues.first(link)) >= 0 and self._key[flow] - reached <= self._small[flow]:
                finished.append(flow)
                self.active[flow] = False
            queues.top[link] = self._key[flow] if flow >= 0 else np.inf
        if finished:
            self._left -= len(finished)
            self._remove(finished)
        return np.array(sorted(finished), dtype=np.int64)

    # -- levels -------------------------------------------------------------------------------------------------------

    def _waits(self) -> Floats:
        with np.errstate(invalid="ignore"):
            return np.where(self._full, (self._queues.top - self._service) / self._basis.x, np.inf)

    def _remove(self, flows: list[int]) -> None:
        if self._left == 0:
            return
        if len(flows) > self._many:
            self._count()
            self._invert()
        elif not self._pivot(np.array(flows), None):
            self._solve(self.remaining)
            return
        self._settle()

    def _settle(self) -> None:
        """Pivot until every flow is bound by the lowest link of its path and no link is short of room."""
        capacity = self._net.capacity
        if self._basis.blocks >= _REFRESH:
            before = self._basis.x
            self._invert()
            if not np.allclose(self._basis.x, before, rtol=_DRIFT, atol=_DRIFT * float(capacity.max())):
                raise PhysicsError("rates drifted from what the links carry; please report this")
        for _ in range(_PASSES):
            short = np.where(self._full, 0.0, self._basis.x / capacity)
            tightest = int(np.argmin(short))
            if short[tightest] < -_SAME:
                crossing = self._crossers(tightest)
                level = self._basis.x[self.bound[crossing]]
                moves = {int(crossing[np.argmax(level)]): tightest}
            else:
                level = np.where(self._full, self._basis.x, np.inf)
                # On the way levels may be negative: where others alone exceed a full link, which then attracts them.
                wrong = level > (level + _SAME * np.abs(level))[:, None]
                wrong &= self._crossed
                rows = np.flatnonzero(wrong.any(axis=1))
                if not len(rows):
                    return
                lower, upper = wrong[rows].nonzero()
                moves = self._lowest(upper, rows[lower], level)
            if len(moves) > self._many:
                self._rebind(np.where(self._full, self._basis.x, np.inf))
            elif not self._change_over(moves):
                break
        self._solve(self.remaining)

    def _crossers(self, link: int) -> Ints:
        """Active flows that cross `link`."""
        flows = self._members[self._member_ptr[link] : self._member_ptr[link + 1]]
        return flows[self.active[flows]]

    def _lowest(self, upper: Ints, lower: Ints, level: Floats) -> dict[int, int]:
        """The flows bound by `upper[i]` that cross `lower[i]`, each with the lowest link of its path."""
        moves: dict[int, int] = {}
        for source, target in zip(upper.tolist(), lower.tolist(), strict=True):
            crossing = self._crossers(target)
            for flow in crossing[self.bound[crossing] == source].tolist():
                links, _ = self._path(flow)
                moves[flow] = int(links[np.argmin(level[links])])
            if len(moves) > self._many:
                break
        return moves

    def _change_over(self, moves: Mapping[int, int]) -> bool:
        """Every flow of `moves` is bound by the link it names from now on. False when the basis would be singular."""
        flows = np.fromiter(moves, dtype=np.int64)
        left = self._key[flows] - self._service[self.bound[flows]]
        if not self._pivot(flows, np.fromiter(moves.values(), dtype=np.int64)):
            return False
        for (flow, target), remaining in zip(moves.items(), left.tolist(), strict=True):
            self._queues.move(flow, target, float(remaining + self._service[target]))
        return True

    def _rebind(self, level: Floats) -> None:
        """Every flow goes to the lowest link of its path at once, and the levels are computed from that."""
        net, remaining = self._net, self.remaining
        on_path = level[net.link]
        lowest = np.minimum.reduceat(on_path, self._ptr[:-1])
        leaves = self.active & (level[self.bound] > lowest + _SAME * np.abs(lowest))
        entry = np.flatnonzero(leaves[net.flow] & (on_path <= lowest[net.flow]))
        moved = np.flatnonzero(leaves)
        if len(moved) < _HEAPS:
            for flow, link in zip(net.flow[entry].tolist(), net.link[entry].tolist(), strict=True):
                self._queues.move(flow, link, float(remaining[flow] + self._service[link]))
        else:
            self.bound[net.flow[entry]] = net.link[entry]
            self._line_up(remaining)
        self._count()
        self._invert()

    def _path(self, flow: int) -> tuple[Ints, Floats]:
        at = slice(self._ptr[flow], self._ptr[flow + 1])
        return self._net.link[at], self._net.weight[at]

    # -- the inverse --------------------------------------------------------------------------------------------------

    def _pivot(self, flows: Ints, targets: Ints | None) -> bool:
        """`flows` leave the links that bind them, for `targets` or for good; M and x follow.

        Each flow moves its path from one column of M to another. A column that loses its last path becomes a unit
        vector, and what it holds is room from here on; a column that was one and gains a path loses it. All at once:
        half-way the basis might be singular. False when it would be singular at the end.
        """
        sources = self.bound[flows]
        counts = self._ptr[flows + 1] - self._ptr[flows]
        starts = np.cumsum(counts) - counts
        entry = np.repeat(self._ptr[flows] - starts, counts) + np.arange(int(counts.sum()))
        links, weights = self._net.link[entry], self._net.weight[entry]
        np.subtract.at(self._crossing, (links, np.repeat(sources, counts)), 1)
        touched = sources if targets is None else np.concatenate([sources, targets])
        if targets is not None:
            np.add.at(self._crossing, (links, np.repeat(targets, counts)), 1)
        touched = np.unique(touched)
        self._crossed[:, touched] = self._crossing[:, touched] > 0
        binds, full = self._crossing[touched, touched] > 0, self._full[touched]
        emptied, filled = touched[full & ~binds], touched[~full & binds]
        self._full[touched] = binds
        self._queues.top[emptied] = np.inf
        units = np.concatenate([emptied, filled])
        inverse = self._basis.inverse(room_for=len(flows) + len(units))
        z = np.concatenate(
            [
                np.add.reduceat(weights[:, None] * inverse[links], starts, axis=0),
                inverse[emptied],
                -inverse[filled],
            ]
        )
        # Change i adds its vector to column plus[i] as often as gains[i] says, and takes it from minus[i] likewise.
        gains = np.ones(len(z))
        gains[: len(flows)] = targets is not None
        loses = np.zeros(len(z))
        loses[: len(flows)] = 1.0
        plus = np.concatenate([sources if targets is None else targets, units])
        return self._basis.update(z, plus, gains, np.concatenate([sources, units]), loses)

    def _invert(self) -> None:
        """The basis anew, from what binds what."""
        net, n = self._net, len(self._net.capacity)
        keep = self.active[net.flow]
        link, weight, bound = net.link[keep], net.weight[keep], self.bound[net.flow[keep]]
        transposed: Floats = np.bincount(bound * n + link, weight, minlength=n * n).astype(np.float64, copy=False)
        transposed = transposed.reshape(n, n)
        transposed[~self._full, ~self._full] = 1.0
        self._basis.invert(transposed)

    def _solve(self, remaining: Floats) -> None:
        """Rates from scratch, and everything that follows from them."""
        net = self._net
        keep = self.active[net.flow]
        part = Incidence(net.n_flows, net.flow[keep], net.link[keep], net.weight[keep], net.capacity)
        _, self.bound = max_min_rates(part, np.where(self.active, np.inf, 0.0))
        self.solves += 1
        self._count()
        self._invert()
        self._service[:] = 0.0
        self._line_up(remaining)

    def _line_up(self, remaining: Floats) -> None:
        """Every flow's key, which is what is left of it plus the service of its link, and its place in the queue."""
        self._key: Floats = remaining + self._service[self.bound]
        self._queues: Queues = Queues(len(self._full), self.active, self.bound, self._key)

    def _count(self) -> None:
        """Who is bound by what: `_crossing[l, b]` flows bound by b cross l; a link that binds a flow is full."""
        net, n = self._net, len(self._net.capacity)
        keep = self.active[net.flow]
        pairs = net.link[keep] * n + self.bound[net.flow[keep]]
        self._crossing = np.bincount(pairs, minlength=n * n).reshape(n, n)
        self._crossed = self._crossing > 0
        self._full = self._crossing.diagonal() > 0
