"""Who finishes next on each link: the flows that a link serves, in the order of their keys (dessim.sim.fluid.pivot).
from dessim.arrays import Floats, Ints

Most flows stay with the link that they start on: those are sorted once. Those that come from another link later queue
in a heap beside. A flow that has finished or gone on is passed over where it would be the first.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from dessim.arrays import Floats, Ints


class Queues:
    """The queues of `n_links` links.

    `active`, `bound` and `key` [flows] are the owner's own arrays, not copies: which flows still run, the link that
    each is served by, and what orders them. `top` [links]: the key of each link's first flow, infinite without one.
    """

    def __init__(self, n_links: int, active: NDArray[np.bool_], bound: Ints, key: Floats) -> None:
        self._active, self._bound, self._key = active, bound, key
        flows = np.flatnonzero(active)
        self._sorted = flows[np.lexsort((key[flows], bound[flows]))]
        ends = np.searchsorted(bound[self._sorted], np.arange(n_links + 1))
        self._head, self._tail = ends[:-1].copy(), ends[1:]
        self._late: list[list[tuple[float, int]]] = [[] for _ in range(n_links)]
        self._moved = np.zeros(len(active), dtype=bool)
        self.top: Floats = np.full(n_links, np.inf)
        some = self._head < self._tail
        self.top[some] = key[self._sorted[self._head[some]]]

    def first(self, link: int) -> int:
        """The flow of `link` that will finish first; -1 when there is none."""
        active, key = self._active, self._key
        head, tail = int(self._head[link]), int(self._tail[link])
        while head < tail and (self._moved[self._sorted[head]] or not active[self._sorted[head]]):
            head += 1
        self._head[link] = head
        late = self._late[link]
        while late and (self._bound[late[0][1]] != link or key[late[0][1]] != late[0][0] or not active[late[0][1]]):
            heapq.heappop(late)
        if head == tail:
            return late[0][1] if late else -1
        flow = int(self._sorted[head])
        return late[0][1] if late and late[0][0] < key[flow] else flow

    def move(self, flow: int, link: int, key: float) -> None:
        """`flow` is served by `link` from now on, where its key is `key`."""
        source = int(self._bound[flow])
        self._bound[flow], self._moved[flow], self._key[flow] = link, True, key
        heapq.heappush(self._late[link], (key, flow))
        self.top[link] = min(self.top[link], key)
        first = self.first(source)
        self.top[source] = self._key[first] if first >= 0 else np.inf
