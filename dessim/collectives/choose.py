"""`auto`: the algorithm that is fastest on an idle network, as a tuner would find, without pricing them all.

Working out a stage's routes costs far more than bounding its time from below by what no routing can beat: the bytes
that a rank's ports have to carry, and one latency. Candidates are priced in the order of their bounds, stage by stage,
and given up as soon as what is priced plus the bound of the rest exceeds the best so far: the same choice as pricing
everything, at a fraction of the cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dessim.cluster import Cluster
from dessim.collectives.schedule import Floats, Ints, Stage

_ROUNDING = 1e-9


def fastest(
    names: Sequence[str],
    stages: Callable[[str], Iterator[Stage]],
    floor: Callable[[Stage], float],
    price: Callable[[Stage], float],
) -> str:
    """The name whose stages cost least by `price`; of equals the one with the lower bound, then the first.

    `floor(stage)` must not exceed `price(stage)`; both are for one repetition.
    """
    if len(names) == 1:
        return names[0]
    floors = {name: [stage.repeat * floor(stage) for stage in stages(name)] for name in names}
    best, winner = math.inf, names[0]
    for name in sorted(names, key=lambda name: sum(floors[name])):
        spent, left = 0.0, sum(floors[name])
        for stage, least in zip(stages(name), floors[name], strict=True):
            if spent + left > best * (1 + _ROUNDING):
                break
            spent += stage.repeat * price(stage)
            left = max(left - least, 0.0)
        else:
            if spent < best:
                best, winner = spent, name
    return winner


class Floor:
    """Seconds a stage takes at least on a group's GPUs, whatever the routing between NICs."""

    def __init__(self, cluster: Cluster, gpus: Ints) -> None:
        wiring, links = cluster.wiring, cluster.links

        def least(kind: str) -> float:
            return float(links.latency[links.of_kind(kind)].min())

        self._nodes, self._nics, self._gpus = cluster.node_of(gpus), wiring.nic_of(gpus), gpus
        self._overhead = cluster.transport.message_overhead
        self._nic_rate = max(node.nic.capacity for node in cluster.nodes)
        self._nic_latency = least("nic_up") + least("nic_down")
        nvlinks = [node.nvlink.capacity for node in cluster.nodes if node.nvlink is not None]
        # Where a kind of node has none, its GPUs have other ways, which nobody bounds here.
        self._nvlink = max(nvlinks) if len(nvlinks) == len(cluster.nodes) else None
        self._node_latency = 0.0
        if self._nvlink is not None:
            self._node_latency = least("nvlink_up") + least("nvlink_down")
        self._fastest = float(cluster.links.capacity.max())

    def __call__(self, stage: Stage) -> float:
        if not len(stage.size):
            return 0.0
        if stage.in_flight > 1:
            return float(stage.size.max()) / self._fastest  # the rest may hide behind it
        if stage.trees is not None:
            return float(stage.size.max()) / self._fastest + self._overhead
        across = self._nodes[stage.src] != self._nodes[stage.dst]
        overhead = self._overhead * int(np.bincount(stage.src).max())
        least = overhead
        if across.any():
            busiest = _busiest(self._nics[stage.dst[across]], stage.size[across])
            wire = busiest / self._nic_rate + self._overhead
            least = max(least, self._nic_latency + wire)
        if self._nvlink is not None and not across.all():
            busiest = _busiest(stage.dst[~across], stage.size[~across])
            wire = busiest / self._nvlink + self._overhead
            least = max(least, self._node_latency + wire)
        return least


def _busiest(port: Ints, size: Floats) -> float:
    return float(np.bincount(port, size).max())
