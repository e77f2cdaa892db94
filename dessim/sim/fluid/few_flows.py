"""Max-min rates of few flows in plain numbers: the rounds of dessim.sim.fluid.maxmin without numpy.

For a few flows numpy spends most of its time on calls, so lists are several times as fast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dessim.arrays import Floats
from dessim.errors import PhysicsError
from dessim.sim.fluid.drain import OVERLOAD_ROUNDING
from dessim.sim.fluid.fan_in import FanIn
from dessim.sim.fluid.maxmin import RELATIVE_TIE

Path = tuple[tuple[int, float], ...]
"""The links of a flow, in ascending order, and its weight on each."""
Rates = tuple[list[float], list[int]]
"""Rates [n_flows] in bytes/s, and the link that bounds each flow (-1: its cap)."""

_NOT_BELOW = 1 - RELATIVE_TIE
_NOT_ABOVE = 1 + RELATIVE_TIE
_MOST_KEPT = 2**14


class FewRates:
    """Rates on links of `capacity` [n_links] bytes/s with `fan_in`. They are kept: the same flows share links in every
    step."""

    def __init__(self, capacity: Floats, fan_in: FanIn | None) -> None:
        self._capacity = capacity
        self._fan_in = fan_in
        self._kept: dict[tuple[tuple[Path, float], ...], Rates] = {}

    def of(self, flows: tuple[tuple[Path, float], ...]) -> Rates:
        """The rates of flows, each with its path and its cap [bytes/s]. Raises PhysicsError for an impossible rate."""
        rates = self._kept.get(flows)
        if rates is None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            rates = self._solve([path for path, _ in flows], [cap for _, cap in flows])
            self._kept[flows] = rates
        return rates

    def _solve(self, paths: Sequence[Path], cap: Sequence[float]) -> Rates:
        capacity = self._shared_capacity(paths)
        rates, bounds = few_max_min_rates(paths, capacity, cap)
        if any(load > capacity[link] * (1 + OVERLOAD_ROUNDING) for link, load in link_loads(paths, rates).items()):
            raise PhysicsError("a link carries more than its capacity; please report this")
        if not all(0 < rate < math.inf for rate in rates):
            raise PhysicsError("a flow with bytes left has no usable rate; please report this")
        return rates, bounds

    def _shared_capacity(self, paths: Sequence[Path]) -> dict[int, float]:
        """Bytes/s that each link can carry while the messages on `paths` share the links to receivers."""
        links = [link for path in paths for link, _ in path]
        capacity: dict[int, float] = dict(zip(links, self._capacity[links].tolist(), strict=True))
        if self._fan_in is not None:
            for link, load in link_loads(paths).items():
                if self._fan_in.receives[link]:
                    capacity[link] *= float(np.interp(load, self._fan_in.flows, self._fan_in.efficiency))
        return capacity


def few_max_min_rates(paths: Sequence[Path], capacity: Mapping[int, float], cap: Sequence[float]) -> Rates:
    """The rates of flows on `paths`.

    `capacity` is in bytes/s per link, and `cap` [n_flows] limits single flows (inf: no limit). Every flow must cross a
    link or have a finite cap.
    """
    rate = [0.0] * len(paths)
    bound = [-1] * len(paths)
    room = dict(capacity)
    links_of = [[link for link, _ in path] for path in paths]
    waiting = list(range(len(paths)))
    while waiting:
        load = link_loads([paths[flow] for flow in waiting])
        share = {link: room[link] / weight for link, weight in load.items()}
        # The smallest share on the path of each flow, then the smallest of those among the flows of each link.
        on_path = [min(map(share.__getitem__, links_of[flow]), default=math.inf) for flow in waiting]
        on_link = dict.fromkeys(load, math.inf)
        for flow, smallest in zip(waiting, on_path, strict=True):
            level = min(smallest, cap[flow])
            for link in links_of[flow]:
                if level < on_link[link]:
                    on_link[link] = level
        # No other link or cap holds a flow of these links back.
        local = {link for link, level in on_link.items() if level >= share[link] * _NOT_BELOW}
        left = []
        frozen = []
        for flow, smallest in zip(waiting, on_path, strict=True):
            if cap[flow] <= smallest:
                rate[flow] = cap[flow]
            else:
                tied = smallest * _NOT_ABOVE
                for link in links_of[flow]:
                    if link in local and share[link] <= tied:
                        rate[flow] = smallest
                        bound[flow] = link
                        break
                else:
                    left.append(flow)
                    continue
            frozen.append(flow)
        if not left:
            break
        for flow in frozen:
            flow_rate = rate[flow]
            for link, weight in paths[flow]:
                room[link] -= weight * flow_rate
        for link in load:
            room[link] = max(room[link], 0.0)
        waiting = left
    return rate, bound


def link_loads(paths: Sequence[Path], rate: Sequence[float] | None = None) -> dict[int, float]:
    """The sum of the weights of the flows on each link, or of their weights times their `rate` [n_flows]."""
    load: dict[int, float] = {}
    if rate is None:
        for path in paths:
            for link, weight in path:
                load[link] = load.get(link, 0.0) + weight
        return load
    for path, times in zip(paths, rate, strict=True):
        for link, weight in path:
            load[link] = load.get(link, 0.0) + weight * times
    return load
