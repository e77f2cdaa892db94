"""Costs of collectives on the user's fabric, from simulations near the size in question: a start and seconds per byte.

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
from dessim.workload.plan import Participants

_SIZE_RATIO = 16.0
"""The larger size of a line over the smaller one."""
_SMALLEST = 2.0**10
"""Bytes. The smaller size of a line is at least this."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Seconds of a collective: `start` and, for each byte of its size S, `per_byte`."""

    start: float
    per_byte: float


RateOf = Callable[[Collective, float, Participants], Rate]
"""The rate of a collective whose size S is up to the given bytes, while all groups of such participants run it."""


def simulated_rates(routed: RouteCache, n: int, server: int = 0) -> RateOf:
    """Rates on the first `n` GPUs, of servers with `server` GPUs each.

    Each rate is a line through two simulated times: of the size, rounded up to a power of two, and of a sixteenth.
    """
    known: dict[tuple[Collective, float, Participants], float] = {}

    def seconds(op: Collective, size: float, participants: Participants) -> float:
        if (op, size, participants) not in known:
            groups = dict(participants.group(rank, n, server) for rank in range(n))
            tasks = [(ranks, collective_task(op, size, group=name)) for name, ranks in groups.items()]
            workload = collectives_at_once(tasks, groups, n, name=str(op))
            known[op, size, participants] = simulate(routed.cluster, workload, routed=routed).end
        return known[op, size, participants]

    def rate_of(op: Collective, size: float, participants: Participants = Participants.ALL) -> Rate:
        if n == 1 or size <= 0:
            return Rate(0.0, 0.0)
        large = 2.0 ** math.ceil(math.log2(max(size, _SMALLEST * _SIZE_RATIO)))
        slow = seconds(op, large, participants)
        fast = seconds(op, large / _SIZE_RATIO, participants)
        per_byte = max(slow - fast, 0.0) / (large - large / _SIZE_RATIO)
        return Rate(max(slow - per_byte * large, 0.0), per_byte)

    return rate_of
