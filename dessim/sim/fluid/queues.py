"""Which flow finishes next on each link: the flows that a link bounds, ordered by key (dessim.sim.fluid.pivot).

Most flows stay with the link that bounds them first, so those are sorted once. Flows that move from another link wait
in a heap beside the sorted list. Flows that have finished or moved on are skipped when they reach the front.
"""

from __future__ import annotations

import heapq

import numpy as np

from dessim.arrays import Bools, Floats, Ints


class Queues:
    """The queues of `n_links` links.

    `active`, `bound` and `key` [n_flows] belong to the caller and are shared, not copied: which flows are still
    draining, the link that bounds each, and its key. `top` [n_links] is the key of each link's first flow, inf if it
    has none.
    """

    def __init__(self, n_links: int, active: Bools, bound: Ints, key: Floats) -> None:
        self._active = active
        self._bound = bound
        self._key = key
        flows = np.flatnonzero(active)
        self._sorted = flows[np.lexsort((key[flows], bound[flows]))]
        ends = np.searchsorted(bound[self._sorted], np.arange(n_links + 1))
        self._head = ends[:-1].copy()
        self._tail = ends[1:]
        self._heaps: list[list[tuple[float, int]]] = [[] for _ in range(n_links)]
        self._moved = np.zeros(len(active), dtype=bool)
        self.top: Floats = np.full(n_links, np.inf)
        nonempty = self._head < self._tail
        self.top[nonempty] = key[self._sorted[self._head[nonempty]]]

    def first(self, link: int) -> int:
        """The flow of `link` that will finish first; -1 if it has none."""
        head = int(self._head[link])
        tail = int(self._tail[link])
        while head < tail and (self._moved[self._sorted[head]] or not self._active[self._sorted[head]]):
            head += 1
        self._head[link] = head
        heap = self._heaps[link]
        while heap and self._is_stale(link, *heap[0]):
            heapq.heappop(heap)
        if head == tail:
            return heap[0][1] if heap else -1
        flow = int(self._sorted[head])
        return heap[0][1] if heap and heap[0][0] < self._key[flow] else flow

    def move(self, flow: int, link: int, key: float) -> None:
        """Let `link` bound `flow` from now on, with `key` as its key there."""
        source = int(self._bound[flow])
        self._bound[flow] = link
        self._moved[flow] = True
        self._key[flow] = key
        heapq.heappush(self._heaps[link], (key, flow))
        self.top[link] = min(self.top[link], key)
        first = self.first(source)
        self.top[source] = self._key[first] if first >= 0 else np.inf

    def _is_stale(self, link: int, key: float, flow: int) -> bool:
        """Whether a heap entry of `link` is outdated: its flow has moved on, or has finished."""
        return bool(self._bound[flow] != link or self._key[flow] != key or not self._active[flow])
