"""Weighted max-min fair rates by progressive filling.

Flow f crosses link l with weight w (1, or 1/k where it is split over k equal paths) and uses w * rate of the link's
capacity. Rates are max-min fair: no rate can rise without lowering one that is no larger. Progressive filling raises
all rates together until a link is full, freezes the flows on that link, and continues with the rest (Bertsekas and
Gallager, Data Networks, section 6.5.2).

The textbook algorithm freezes one link per round. This one freezes every *local* bottleneck in the same round: each
link whose fair share is the smallest on the path of every one of its flows. The result is the same. Freezing other
flows can only raise fair shares, because a flow is frozen at a rate that no link on its path would refuse. So a local
bottleneck is frozen at this very share in any order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dessim.arrays import Bools, Floats, Ints
from dessim.sim.fluid.fan_in import FanIn

RELATIVE_TIE = 1e-12  # shares this close are equal but for rounding; far below the 1e-9 promised for results


@dataclass(frozen=True, slots=True)
class Incidence:
    """Which flow crosses which link, as parallel arrays sorted by flow: `flow`, `link` [nnz] and `weight` [nnz].

    `capacity` [n_links] is in bytes/s; links that no flow crosses are allowed. `cap` [n_flows] in bytes/s limits single
    flows (inf: no limit). `fan_in` lowers the capacity of receivers' links that several flows share.
    """

    n_flows: int
    flow: Ints
    link: Ints
    weight: Floats
    capacity: Floats
    cap: Floats | None = None
    fan_in: FanIn | None = None

    def effective_capacity(self) -> Floats:
        """Bytes/s [n_links] that links can carry while all flows are in flight."""
        if self.fan_in is None:
            return self.capacity
        load = np.bincount(self.link, self.weight, minlength=len(self.capacity)).astype(np.float64)
        return self.capacity * self.fan_in.share(load)

    def of_flows(self, keep: Bools) -> Incidence:
        """The network with the links of the flows to `keep` [n_flows] only. Flow numbers stay the same."""
        entries = keep[self.flow]
        if np.count_nonzero(entries) == len(entries):
            return self
        flow = self.flow[entries]
        link = self.link[entries]
        weight = self.weight[entries]
        return Incidence(self.n_flows, flow, link, weight, self.capacity, self.cap, self.fan_in)


def max_min_rates(net: Incidence, cap: Floats | None = None) -> tuple[Floats, Ints]:
    """Rates [n_flows] in bytes/s, and the link that bounds each flow (-1: its cap).

    `cap` [n_flows] limits single flows further (inf: no limit). Every flow must cross a link or have a finite cap.
    """
    rate = np.zeros(net.n_flows)
    bound = np.full(net.n_flows, -1, dtype=np.int64)
    n_links = len(net.capacity)
    # Copies of these cost less than arrays filled anew; where flows are few, numpy spends its time on calls.
    endless = np.full(net.n_flows, np.inf)
    endless_links = np.full(n_links, np.inf)
    no_link = np.full(net.n_flows, n_links, dtype=np.int64)
    limit = endless if net.cap is None else net.cap
    if cap is not None:
        limit = np.minimum(limit, cap)
    room = net.effective_capacity().astype(np.float64, copy=True)
    flow = net.flow
    link = net.link
    weight = net.weight
    waiting = np.ones(net.n_flows, dtype=bool)
    while len(flow):
        load = np.bincount(link, weight, minlength=n_links)
        share = endless_links.copy()
        np.divide(room, load, out=share, where=load > 0)
        share_of_entry = share[link]
        # The smallest share on the path of each flow, then the smallest of those among the flows of each link.
        on_path = endless.copy()
        np.minimum.at(on_path, flow, share_of_entry)
        capped = waiting & (limit <= on_path)
        level = np.minimum(on_path, limit)
        on_link = endless_links.copy()
        np.minimum.at(on_link, link, level[flow])
        local = on_link >= share * (1 - RELATIVE_TIE)  # no other link or cap holds a flow of this link back
        full = local[link] & (share_of_entry <= (on_path * (1 + RELATIVE_TIE))[flow])
        full_flow = flow[full]
        freeze = capped.copy()
        freeze[full_flow] = True
        np.copyto(rate, level, where=freeze)
        # If several links fill together, name the first, so that the order of entries does not matter.
        first = no_link.copy()
        np.minimum.at(first, full_flow, link[full])
        np.copyto(bound, first, where=freeze & ~capped)
        waiting &= ~freeze
        if not np.count_nonzero(waiting):
            break
        frozen = freeze[flow]
        room -= np.bincount(link[frozen], weight[frozen] * rate[flow[frozen]], minlength=n_links)
        np.maximum(room, 0.0, out=room)
        left = ~frozen
        flow = flow[left]
        link = link[left]
        weight = weight[left]
    # The remaining flows cross no link, so only their caps bound them.
    rate[waiting] = limit[waiting]
    return rate, bound
