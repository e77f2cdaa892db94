"""Costs of collectives on the user's fabric: a start and seconds per byte, from two simulations of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dessim.sim.engine import simulate
from dessim.sim.fluid.route_cache import RouteCache
from dessim.trace.schema import Collective
from dessim.workload.one_collective import one_collective

_SIZES = (2.0**20, 2.0**26)
_OPS = (Collective.ALL_TO_ALL, Collective.REDUCE_SCATTER, Collective.ALL_GATHER, Collective.ALL_REDUCE)


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds of a collective over all workers: `start` and, for each byte of its size S, `per_byte`, by op."""

    start: Mapping[Collective, float]
    per_byte: Mapping[Collective, float]


def simulated_rates(routed: RouteCache, n: int) -> Rates:
    """The line through the simulated times of 1 MiB and 64 MiB on the first `n` GPUs."""
    start, per_byte = dict.fromkeys(_OPS, 0.0), dict.fromkeys(_OPS, 0.0)
    if n > 1:
        for op in _OPS:
            small, large = (simulate(routed.cluster, one_collective(op, n, size), routed=routed).end for size in _SIZES)
            per_byte[op] = max(large - small, 0.0) / (_SIZES[1] - _SIZES[0])
            start[op] = max(small - per_byte[op] * _SIZES[0], 0.0)
    return Rates(start, per_byte)
