"""An obviously correct reference: max-min rates in exact rational arithmetic, one bottleneck and one flow at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from dessim.cluster import Cluster
from dessim.sim.fluid.maxmin import Incidence


@dataclass(frozen=True)
class Flow:
    """A flow of `size` bytes from `start` [s] on; `path` maps each link to the flow's weight on it."""

    start: Fraction
    size: Fraction
    path: dict[int, Fraction]


def rates(paths: Sequence[dict[int, Fraction]], capacity: Sequence[Fraction]) -> list[Fraction]:
    """Textbook progressive filling: freeze the flows of the single tightest link in each round."""
    rate: dict[int, Fraction] = {}
    room = list(capacity)
    while len(rate) < len(paths):
        open_flows = [f for f in range(len(paths)) if f not in rate]
        load = {}
        for f in open_flows:
            for link, weight in paths[f].items():
                load[link] = load.get(link, Fraction(0)) + weight
        share, tightest = min((room[link] / total, link) for link, total in load.items())
        for f in open_flows:
            if tightest in paths[f]:
                rate[f] = share
                for link, weight in paths[f].items():
                    room[link] -= weight * share
    return [rate[f] for f in range(len(paths))]


@dataclass(frozen=True)
class Limits:
    """Limits of a transport: a fan-in `curve` on the links `receives`, and a `cap` for flows that cross them."""

    receives: frozenset[int] = frozenset()
    curve: Sequence[tuple[int, Fraction]] = field(default_factory=tuple)
    cap: Fraction | None = None

    def share(self, flows: int) -> Fraction:
        """The share of its capacity that a link keeps for a number of flows, linear between the points of the curve."""
        below = [point for point in self.curve if point[0] <= flows]
        above = [point for point in self.curve if point[0] > flows]
        if not below or not above:
            return below[-1][1] if below else Fraction(1)
        (k0, e0), (k1, e1) = below[-1], above[0]
        return e0 + (e1 - e0) * Fraction(flows - k0, k1 - k0)

    def rates(self, paths: Sequence[dict[int, Fraction]], capacity: Sequence[Fraction]) -> list[Fraction]:
        """Rates with these limits. A cap is modelled as one more link that only its flow crosses."""
        room = [
            c * (self.share(sum(link in path for path in paths)) if link in self.receives else 1)
            for link, c in enumerate(capacity)
        ]
        if self.cap is None:
            return rates(paths, room)
        capped = [
            {**path, len(room) + f: Fraction(1)} if self.receives & path.keys() else path
            for f, path in enumerate(paths)
        ]
        return rates(capped, [*room, *([self.cap] * len(paths))])


def finish_times(flows: Sequence[Flow], capacity: Sequence[Fraction], limits: Limits | None = None) -> list[Fraction]:
    """When each flow has drained; rates are solved from scratch at every start and every finish."""
    solve = limits.rates if limits else rates
    left = [f.size for f in flows]
    done: list[Fraction | None] = [None] * len(flows)
    now = Fraction(0)
    while any(d is None for d in done):
        active = [i for i, f in enumerate(flows) if done[i] is None and f.start <= now]
        starts = [f.start for i, f in enumerate(flows) if done[i] is None and f.start > now]
        horizon = min(starts, default=None)
        if active:
            speed = solve([flows[i].path for i in active], capacity)
            step = min(left[i] / r for i, r in zip(active, speed, strict=True))
            if horizon is not None:
                step = min(step, horizon - now)
            for i, r in zip(active, speed, strict=True):
                left[i] -= r * step
            now += step
            for i in active:
                if left[i] == 0:
                    done[i] = now
        else:
            assert horizon is not None
            now = horizon
    return [d for d in done if d is not None]


def path(cluster: Cluster, src: int, dst: int) -> dict[int, Fraction]:
    """The path of a flow of a cluster."""
    routes = cluster.routes([src], [dst])
    return {link: Fraction(weight) for link, weight in zip(routes.link.tolist(), routes.weight.tolist(), strict=True)}


def incidence(paths: Sequence[dict[int, Fraction]], capacity: Sequence[Fraction]) -> Incidence:
    """The same network for the solver under test."""
    entries = [(f, link, float(w)) for f, path in enumerate(paths) for link, w in sorted(path.items())]
    flow, link, weight = (np.array(column) for column in zip(*entries, strict=True))
    return Incidence(len(paths), flow, link, weight, np.array([float(c) for c in capacity]))
