"""Max-min rates of flows in one slice of time (dessim.sim.fluid.slices), by policy iteration from the slice before.

Every flow has a cap. In a max-min solution a flow below its cap is bound by the link of lowest *level* on its path,
where the level of a link is the rate of all flows that it binds. Policy iteration (Howard 1960) starts from the links
that bound flows in the slice before: solve the linear system that this assumption implies, rebind each flow to the link
of lowest level on its path, and repeat until no flow changes. The fixed point is max-min fair, because each flow then
has a bottleneck (Bertsekas and Gallager, Data Networks, section 6.5.2). If the iteration does not settle,
`max_min_rates` solves from scratch.
"""

from __future__ import annotations

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.errors import PhysicsError
from dessim.sim.fluid.maxmin import Incidence, max_min_rates

_MAX_ITERATIONS = 6  # of policy iteration before solving from scratch
_MAX_DENSE_LINKS = 3000  # for more links, a dense linear system is slower than solving from scratch
_SETTLED = 1e-6  # relative; rebinding a flow for a smaller difference has no effect that a tolerance would show
_OVERLOAD_ROUNDING = 1e-9  # relative excess of a link's load that is still rounding


class Levels:
    """The levels of links, and which link binds each of m flows.

    Links are numbered from 0 to n - 1, and `names` [n] are their numbers in the network. `link` and `weight` [h, m] are
    the paths of flows, padded to the longest, h links, with link n, which has infinite `capacity`. `level` [n + 1] is
    the level of each link, inf if it is not full; `binds` [m] the link that binds each flow, -1 for its cap.
    """

    def __init__(self, net: Incidence, flows: Ints) -> None:
        self.names, link = np.unique(net.link, return_inverse=True)
        n = len(self.names)
        self.capacity = np.append(net.capacity[self.names], np.inf)
        hop = np.arange(len(net.flow)) - np.searchsorted(net.flow, net.flow)
        shape = (int(hop.max(initial=-1)) + 1, net.n_flows)
        links = np.full(shape, n, dtype=np.int64)
        links[hop, net.flow] = link
        weights = np.zeros(shape)
        weights[hop, net.flow] = net.weight
        self.link = links[:, flows]
        self.weight = weights[:, flows]
        self.level = np.full(len(self.capacity), np.inf)
        self.binds: Ints = np.full(len(flows), -1, dtype=np.int64)
        # [b, l]: the load on link l, through the flows that link b binds, if the level of b were 1.
        self._matrix = np.zeros((n, n + 1))
        self._uncapped: Floats | None = None  # the rates [m] if policy iteration found them and no cap bound a flow

    def keep(self, flows: Ints) -> None:
        """Keep only some of the flows."""
        self._uncapped = None
        self.binds = self.binds[flows]
        self.link = self.link[:, flows]
        self.weight = self.weight[:, flows]

    def solve(self, cap: Floats) -> Floats:
        """Solve rates with `cap`, and set the level of each link and the link that binds each flow.

        Returns the lowest level on each flow's path. That is its max-min rate, unless `cap` is lower; inf if no link of
        the path is full.
        """
        if self._uncapped is not None and (cap > self._uncapped).all():
            return self._uncapped  # nothing has changed: in most slices of a network of few flows
        small = len(self.capacity) <= _MAX_DENSE_LINKS and (self.binds >= 0).all()
        settled = small and self._iterate(cap)
        if not settled:
            self._solve_from_scratch(cap)
        path_level = self.path_level(self.level)
        load = self.load(np.minimum(cap, path_level))
        if (load > self.capacity * (1 + _OVERLOAD_ROUNDING)).any():
            raise PhysicsError("a link carries more than its capacity; please report this")
        self._uncapped = path_level if settled and (cap > path_level).all() else None
        return path_level

    def _solve_from_scratch(self, cap: Floats) -> None:
        rate, bound = max_min_rates(self.incidence(self.link, self.weight, self.capacity), cap)
        uncapped = bound >= 0
        self.level = np.full(len(self.capacity), -np.inf)
        np.maximum.at(self.level, bound[uncapped], rate[uncapped])
        self.level[self.level < 0] = np.inf
        self.binds[:] = -1
        self._matrix[:] = 0.0
        self._bind(np.flatnonzero(uncapped), bound[uncapped])

    def _bind(self, flows: Ints, links: Ints) -> None:
        """Let `links` bind `flows` from now on (-1: none, because their caps are lower), and update the matrix."""
        for sign, binds in ((-1.0, self.binds[flows]), (1.0, links)):
            bound_flows = flows[binds >= 0]
            np.add.at(
                self._matrix,
                (binds[binds >= 0], self.link[:, bound_flows]),
                sign * self.weight[:, bound_flows],
            )
        self.binds[flows] = links

    def _iterate(self, cap: Floats) -> bool:
        """Policy iteration from the links that bound flows in the slice before. Returns whether it settled."""
        capacity = self.capacity[:-1]
        ends = cap <= self.path_level(self.level)
        self._bind(np.flatnonzero(ends), np.full(np.count_nonzero(ends), -1))
        for _ in range(_MAX_ITERATIONS):
            ending = np.flatnonzero(ends)
            room = capacity - self.load(cap[ending], ending)[:-1]
            full = np.bincount(self.binds + 1, minlength=len(capacity) + 1)[1:] > 0
            spare = np.flatnonzero(~full)
            x = self._levels_and_room(spare, room)
            if x is None:
                return False
            level = np.append(np.where(full, x, np.inf), np.inf)
            overloaded = spare[x[spare] < -_OVERLOAD_ROUNDING * capacity[spare]]
            for link in overloaded.tolist():
                level[link] = self._fair_level(link, np.minimum(cap, self.path_level(level)))
            path_level = self.path_level(level)
            ends = cap <= path_level
            # The level of the link that binds each flow. For a flow that its cap bound so far, -1 indexes the padding
            # link, whose level is inf.
            current = np.where(ends, -np.inf, level[self.binds])
            moves = np.flatnonzero((current > path_level * (1 + _SETTLED)) | (ends & (self.binds >= 0)))
            if not len(moves) and not len(overloaded):
                self.level = level
                return bool((x[full] > 0).all())
            self._bind(moves, np.where(ends[moves], -1, lowest_links(level, self.link[:, moves])))
        return False

    def _levels_and_room(self, spare: Ints, room: Floats) -> Floats | None:
        """The levels of full links and the room left on `spare` ones [n]; None if the system is singular.

        `room` [n] is what flows that end in this slice leave of each link's capacity.
        """
        matrix = self._matrix[:, :-1].T.copy()
        matrix[:, spare] = 0.0
        matrix[spare, spare] = 1.0
        try:
            return np.linalg.solve(matrix, room).astype(np.float64, copy=False)
        except np.linalg.LinAlgError:
            return None

    def _fair_level(self, link: int, rate: Floats) -> float:
        """The level at which the flows of `link` fill it, if flows that are slower than that keep their `rate`."""
        hop, flow = np.nonzero(self.link == link)
        order = np.argsort(rate[flow])
        weight = self.weight[hop, flow][order]
        rates = rate[flow][order]
        weight_from_here = np.cumsum(weight[::-1])[::-1]
        load_before = np.cumsum(weight * rates) - weight * rates
        # The level if this flow and all faster ones shared the capacity that slower ones leave.
        levels = (self.capacity[link] - load_before) / weight_from_here
        return float(levels[np.argmax(levels <= rates)])

    def load(self, rate: Floats, flows: Ints | None = None) -> Floats:
        """The load on each link if flow `flows[i]` (default: flow i) has `rate[i]`."""
        link = self.link
        weight = self.weight
        if flows is not None:
            link = link[:, flows]
            weight = weight[:, flows]
        load = (weight * rate).ravel()
        return np.bincount(link.ravel(), load, minlength=len(self.capacity)).astype(np.float64, copy=False)

    def path_level(self, level: Floats) -> Floats:
        """The lowest level on each flow's path."""
        low: Floats = level[self.link[0]]
        for links in self.link[1:]:  # faster than min(axis=0), since paths are short
            np.minimum(low, level[links], out=low)
        return low

    def incidence(self, link: Ints, weight: Floats, capacity: Floats) -> Incidence:
        """The network of flows with paths in the columns of `link` and `weight`, without links of infinite capacity."""
        flow, hop = np.nonzero(np.isfinite(capacity[link]).T)
        return Incidence(link.shape[1], flow, link[hop, flow], weight[hop, flow], capacity)


def lowest_links(level: Floats, link: Ints) -> Ints:
    """The link of lowest level in each column of `link` [h, flows]."""
    lowest: Ints = np.take_along_axis(link, level[link].argmin(axis=0)[None], axis=0)[0]
    return lowest
