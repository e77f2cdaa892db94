"""Costs of collectives on the user's fabric: a start and seconds per byte, from simulations near the size in question.

A line through 1 MiB and 64 MiB would be wrong for the small messages of small tables: libraries change protocol and
algorithm with the size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dessim.sim.engine import simulate
from dessim.sim.fluid.route_cache import RouteCache
from dessim.trace.schema import Collective
from dessim.workload.one_collective import collective_task, collectives_at_once
from dessim.workload.plan import Span

_SPAN = 16.0
_LEAST = 2.0**10


@dataclass(frozen=True, slots=True)
class Rate:
    """Seconds of a collective: `start` and, for each byte of its size S, `per_byte`."""

    start: float
    per_byte: float


RateOf = Callable[[Collective, float, Span], Rate]
"""The rate of a collective whose size S is up to the given bytes, in all groups of its span at the same time."""


def simulated_rates(routed: RouteCache, n: int, server: int = 0) -> RateOf:
    """Rates on the first `n` GPUs, of servers with `server` each: lines through the simulated times of a size, rounded
    up to a power of two, and of a sixteenth of it."""
    known: dict[tuple[Collective, float, Span], float] = {}

    def seconds(op: Collective, size: float, span: Span) -> float:
        if (op, size, span) not in known:
            groups = dict(span.group(rank, n, server) for rank in range(n))
            tasks = [(ranks, collective_task(op, size, group=name)) for name, ranks in groups.items()]
            workload = collectives_at_once(tasks, groups, n, name=str(op))
            known[op, size, span] = simulate(routed.cluster, workload, routed=routed).end
        return known[op, size, span]

    def rate_of(op: Collective, size: float, span: Span = Span.ALL) -> Rate:
        if n == 1 or size <= 0:
            return Rate(0.0, 0.0)
        large = 2.0 ** math.ceil(math.log2(max(size, _LEAST * _SPAN)))
        slow, fast = seconds(op, large, span), seconds(op, large / _SPAN, span)
        per_byte = max(slow - fast, 0.0) / (large - large / _SPAN)
        return Rate(max(slow - per_byte * large, 0.0), per_byte)

    return rate_of
