"""Max-min rates of few flows in plain numbers: the rounds of dessim.sim.fluid.maxmin without numpy.

For a few flows numpy spends most of its time on calls, so lists are several times as fast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dessim.sim.fluid.maxmin import RELATIVE_TIE

Path = Sequence[tuple[int, float]]
"""The links of a flow, ascending, and its weight on each."""


def few_max_min_rates(
    paths: Sequence[Path], capacity: Mapping[int, float], cap: Sequence[float]
) -> tuple[list[float], list[int]]:
    """Rates [n_flows] in bytes/s, and the link that bounds each flow (-1: its cap).

    `capacity` is in bytes/s per link, and `cap` [n_flows] limits single flows (inf: no limit). Every flow must cross a
    link or have a finite cap.
    """
    rate = [0.0] * len(paths)
    bound = [-1] * len(paths)
    room = dict(capacity)
    waiting = list(range(len(paths)))
    while waiting:
        load = link_loads([paths[flow] for flow in waiting])
        share = {link: room[link] / weight for link, weight in load.items()}
        # The smallest share on the path of each flow, then the smallest of those among the flows of each link.
        on_path = [min([share[link] for link, _ in paths[flow]], default=math.inf) for flow in waiting]
        on_link = dict.fromkeys(load, math.inf)
        for flow, smallest in zip(waiting, on_path, strict=True):
            level = min(smallest, cap[flow])
            for link, _ in paths[flow]:
                if level < on_link[link]:
                    on_link[link] = level
        # No other link or cap holds a flow of these links back.
        local = {link for link, level in on_link.items() if level >= share[link] * (1 - RELATIVE_TIE)}
        left, frozen = [], []
        for flow, smallest in zip(waiting, on_path, strict=True):
            if cap[flow] <= smallest:
                rate[flow] = cap[flow]
            else:
                tied = smallest * (1 + RELATIVE_TIE)
                full = [link for link, _ in paths[flow] if link in local and share[link] <= tied]
                if not full:
                    left.append(flow)
                    continue
                rate[flow] = smallest
                bound[flow] = full[0]
            frozen.append(flow)
        if not left:
            break
        for flow in frozen:
            for link, weight in paths[flow]:
                room[link] -= weight * rate[flow]
        room = {link: max(bytes_per_s, 0.0) for link, bytes_per_s in room.items()}
        waiting = left
    return rate, bound


def link_loads(paths: Sequence[Path], rate: Sequence[float] | None = None) -> dict[int, float]:
    """The sum of the weights of the flows on each link, or of their weights times their `rate` [n_flows]."""
    load: dict[int, float] = {}
    for flow, path in enumerate(paths):
        times = 1.0 if rate is None else rate[flow]
        for link, weight in path:
            load[link] = load.get(link, 0.0) + weight * times
    return load
