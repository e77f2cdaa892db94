"""`auto`: choose the algorithm that is fastest on an idle network, by branch and bound.

A lower bound of a stage's time is cheap: the time of the bytes that the busiest port must carry, plus one latency,
whatever the routing. The exact time, its *price*, needs the routes of the stage and is far more expensive. Candidates
are priced stage by stage in the order of their bounds, and dropped as soon as the price so far plus the bound of the
remaining stages reaches the best total. The choice is the same as if every candidate were priced in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from dessim.arrays import Floats, Ints, significant
from dessim.cluster import Cluster
from dessim.collectives.schedule import Stage

Candidate = TypeVar("Candidate")
_ROUNDING = 1e-9  # relative: prices this close are equal but for rounding


def fastest(
    candidates: Sequence[Candidate],
    stages: Callable[[Candidate], Iterator[Stage]],
    floor: Callable[[Stage], float],
    price: Callable[[Stage], float],
) -> Candidate:
    """The candidate whose stages have the lowest total price.

    Among equal ones (to `_ROUNDING`) the lowest bound decides, then the fewest stages, then the order. `price(stage)`
    and `floor(stage)` are the seconds of one repetition and a lower bound of them. A price of inf drops the candidate;
    if all are dropped, the first one is returned.
    """
    if len(candidates) == 1:
        return candidates[0]
    floors = [[stage.repeat * floor(stage) for stage in stages(candidate)] for candidate in candidates]
    order = sorted(range(len(candidates)), key=lambda number: (significant(sum(floors[number])), len(floors[number])))
    best = math.inf
    winner = candidates[0]
    for number in order:
        priced = 0.0
        bound_left = sum(floors[number])
        for stage, stage_floor in zip(stages(candidates[number]), floors[number], strict=True):
            if priced + bound_left >= best * (1 - _ROUNDING):
                break
            priced += stage.repeat * price(stage)
            bound_left = max(bound_left - stage_floor, 0.0)
        else:
            if priced < best:
                best = priced
                winner = candidates[number]
    return winner


class Floor:
    """A lower bound of the seconds that a stage takes on a group's GPUs, whatever the routing between NICs.

    With `bytes_only` latency and overhead cost nothing.
    """

    def __init__(self, cluster: Cluster, gpus: Ints, bytes_only: bool = False) -> None:
        links = cluster.links

        def least_latency(kind: str) -> float:
            return 0.0 if bytes_only else float(links.latency[links.of_kind(kind)].min())

        self._nodes = cluster.node_of(gpus)
        self._nics = cluster.wiring.nic_of(gpus)
        self._overhead = 0.0 if bytes_only else cluster.transport.message_overhead
        self._nic_rate = max(node.nic.capacity for node in cluster.nodes)
        self._nic_latency = least_latency("nic_up") + least_latency("nic_down")
        nvlinks = [node.nvlink.capacity for node in cluster.nodes if node.nvlink is not None]
        # Without NVLink the GPUs of a node use other routes, for which there is no bound here.
        self._nvlink = max(nvlinks) if len(nvlinks) == len(cluster.nodes) else None
        self._node_latency = 0.0
        if self._nvlink is not None:
            self._node_latency = least_latency("nvlink_up") + least_latency("nvlink_down")
        self._fastest = float(cluster.links.capacity.max())
        self._loads: dict[tuple[object, ...], _Load] = {}  # by the pattern of stages of equal messages

    def __call__(self, stage: Stage) -> float:
        if not len(stage.size):
            return 0.0
        largest = float(stage.size.max())
        if stage.in_flight > 1:
            # Latency and overhead of one part may be hidden behind the transfer of another.
            return largest / self._fastest
        if stage.trees is not None:
            return largest / self._fastest + self._overhead
        load = self._load_of(stage, largest)
        least = self._overhead * load.messages
        if load.nic > 0:
            least = max(least, self._nic_latency + load.nic * largest / self._nic_rate + self._overhead)
        if self._nvlink is not None and load.nvlink > 0:
            least = max(least, self._node_latency + load.nvlink * largest / self._nvlink + self._overhead)
        return least

    def _load_of(self, stage: Stage, largest: float) -> _Load:
        """The load of a stage whose largest message has `largest` bytes; stages of one pattern mostly share it."""
        if stage.pattern and float(stage.size.min()) == largest:
            if stage.pattern not in self._loads:
                self._loads[stage.pattern] = self._measured(stage, np.ones(len(stage.size)))
            return self._loads[stage.pattern]
        return self._measured(stage, stage.size / largest if largest else stage.size)

    def _measured(self, stage: Stage, relative: Floats) -> _Load:
        across = self._nodes[stage.src] != self._nodes[stage.dst]
        return _Load(
            messages=int(np.bincount(stage.src).max()),
            nic=_busiest(self._nics[stage.dst[across]], relative[across]),
            nvlink=_busiest(stage.dst[~across], relative[~across]),
        )


@dataclass(frozen=True, slots=True)
class _Load:
    """The load of the busiest port, in units of the largest message, and the most messages that a rank sends."""

    messages: int
    nic: float
    nvlink: float


def _busiest(port: Ints, size: Floats) -> float:
    """The most bytes that any port carries; message i passes `port[i]` with `size[i]` bytes."""
    return float(np.bincount(port, size).max(initial=0.0))
