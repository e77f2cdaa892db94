"""Weighted max-min fair rates by progressive filling.

Flow f crosses link l with weight w (1, or 1/k where it is split over k equal paths) and takes w * rate of l's capacity.
Rates are max-min fair: none can rise without lowering one that is no larger. Progressive filling raises all rates
together until a link is full, freezes the flows on it, and goes on with the rest (Bertsekas and Gallager, Data
Networks, section 6.5.2).

Textbook filling freezes one link a round. Here every *local* bottleneck is frozen at once: a link whose fair share is
the smallest on the path of each of its flows. Freezing others can only raise shares, since a flow is frozen at a rate
no link on its path would refuse, so such a link would be frozen at this very share in any order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.arrays import Floats, Ints
from dessim.sim.fluid.fan_in import FanIn

# Shares that differ by rounding only count as equal; far below the 1e-9 that results are promised to.
_TIE = 1e-12


@dataclass(frozen=True, slots=True)
class Incidence:
    """Which flow crosses which link, as parallel arrays sorted by flow: `flow`, `link` [nnz] and `weight` [nnz].

    `capacity` [n_links] is in bytes/s; links no flow crosses may be present. `cap` [n_flows] in bytes/s limits single
    flows (inf: not), `fan_in` receivers' links on which several flows meet.
    """

    n_flows: int
    flow: Ints
    link: Ints
    weight: Floats
    capacity: Floats
    cap: Floats | None = None
    fan_in: FanIn | None = None

    def carries(self) -> Floats:
        """Bytes/s [n_links] that links can carry while all these flows are under way."""
        if self.fan_in is None:
            return self.capacity
        load = np.bincount(self.link, self.weight, minlength=len(self.capacity)).astype(np.float64)
        return self.capacity * self.fan_in.share(load)


def max_min_rates(net: Incidence, cap: Floats | None = None) -> tuple[Floats, Ints]:
    """Rates [n_flows] in bytes/s, and the link that bounds each flow (-1: its own cap).

    `cap` [n_flows] limits single flows further (inf: not). Every flow must cross a link or have a finite cap.
    """
    rate = np.zeros(net.n_flows)
    bound = np.full(net.n_flows, -1, dtype=np.int64)
    limit = np.full(net.n_flows, np.inf) if net.cap is None else net.cap
    if cap is not None:
        limit = np.minimum(limit, cap)
    n_links = len(net.capacity)
    room = net.carries().astype(np.float64, copy=True)
    flow, link, weight = net.flow, net.link, net.weight
    waiting = np.ones(net.n_flows, dtype=bool)
    while len(flow):
        load = np.bincount(link, weight, minlength=n_links)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(load > 0, room / load, np.inf)
        # The smallest share on each flow's path, then the smallest of those on each link.
        on_path = np.full(net.n_flows, np.inf)
        np.minimum.at(on_path, flow, share[link])
        capped = waiting & (limit <= on_path)
        level = np.minimum(on_path, limit)
        on_link = np.full(n_links, np.inf)
        np.minimum.at(on_link, link, level[flow])
        local = on_link >= share * (1 - _TIE)  # no flow on it is held back elsewhere
        full = local[link] & (share[link] <= on_path[flow] * (1 + _TIE))
        freeze = capped.copy()
        freeze[flow[full]] = True
        rate[freeze] = level[freeze]
        # Of several links that fill at once the first is named, whatever order the entries come in.
        first = np.full(net.n_flows, n_links, dtype=np.int64)
        np.minimum.at(first, flow[full], link[full])
        bound[freeze & ~capped] = first[freeze & ~capped]
        waiting &= ~freeze
        gone = freeze[flow]
        room -= np.bincount(link[gone], weight[gone] * rate[flow[gone]], minlength=n_links)
        np.maximum(room, 0.0, out=room)
        keep = ~gone
        flow, link, weight = flow[keep], link[keep], weight[keep]
    # Flows that cross nothing are bound by their cap alone.
    rate[waiting] = limit[waiting]
    return rate, bound
