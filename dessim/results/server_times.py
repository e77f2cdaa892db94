"""Where the time of a step with parameter servers goes, and how stale the weights of the workers are.

Workers do not step together, so a step is an average over the measured time: every worker is always computing, in a
call, or waiting for others, and each of these seconds is shared among the steps that ended in that time. The parts add
up to the time in which every worker makes one step. A call that goes to several servers has the parts of the server
that answers last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dessim.results.critical_path import PathOp
from dessim.results.metrics import Breakdown, OpCost
from dessim.sim.core.bounds import LATE, QUEUE, SERVICE, add_parts
from dessim.sim.core.counters import Load
from dessim.sim.servers.traffic import ServersResult
from dessim.trace.schema import Kind

_CALL_PARTS = (QUEUE, SERVICE, LATE)
_RELATIVE_ROUNDING = 1e-9  # idle time below this share of a step is rounding


@dataclass(frozen=True, slots=True)
class ServerTimes:
    """Seconds that a worker waits in a step, by cause, and the staleness of what it reads.

    `queue_s` is the wait in the servers' queues, `service_s` their work, `transfer_s` the messages, `wait_s` the wait
    for other workers. `busy_share` is the share of time that the servers' threads work. Staleness is counted in
    versions: the updates by others that a server applied between a worker's pull and its push. `lead_steps` is the
    largest lead of a worker over the slowest one.
    """

    queue_s: float
    service_s: float
    transfer_s: float
    wait_s: float
    busy_share: float
    staleness_mean: float
    staleness_p95: float
    staleness_max: float
    lead_steps: int

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        return {name: getattr(self, name) for name in self.__slots__}


def server_breakdown(served: ServersResult) -> tuple[Breakdown, ServerTimes]:
    """The parts of a step of a simulated run with parameter servers."""
    ops, sizes = _ops_per_step(served)
    compute = sum(op.time_s for op in ops.values() if op.what == Kind.COMPUTE)
    calls = [op for op in ops.values() if op.what != Kind.COMPUTE]
    exposed = sum(op.time_s for op in calls)
    idle = served.step_time - compute - exposed
    costs = [
        OpCost(
            name=op.name,
            collective=op.what,
            algorithm="",
            bytes=sizes[op.name],
            time_s=op.time_s,
            exposed_s=op.time_s,
            bytes_by_link={},
            bound_by=op.bound_by,
        )
        for op in calls
        if op.parts
    ]
    breakdown = Breakdown(
        compute_s=compute,
        exposed_comm_s=exposed,
        idle_s=idle if idle > _RELATIVE_ROUNDING * served.step_time else 0.0,
        comm_by_op=tuple(costs),
        bytes_by_link=dict(served.bytes_by_link),
        critical_path=tuple(op for op in ops.values() if op.parts),
        load=Load.nothing(),
    )
    return breakdown, _server_times(served, calls, exposed)


def _ops_per_step(served: ServersResult) -> tuple[dict[str, PathOp], dict[str, float]]:
    """The ops by name with their times, and the bytes of each, per step."""
    ops: dict[str, PathOp] = {}
    sizes: dict[str, float] = {}
    for span in served.record.spans:
        inside = min(span.end, served.end) - max(span.start, served.start)
        if inside > 0:
            share = inside / (span.end - span.start) / served.steps
            op = ops.setdefault(span.name, PathOp(span.name, str(span.kind)))
            op.size = max(op.size, span.size)
            add_parts(op.parts, span.parts, share)
            sizes[span.name] = sizes.get(span.name, 0.0) + span.size * share
    return ops, sizes


def _server_times(served: ServersResult, calls: list[PathOp], exposed: float) -> ServerTimes:
    spent = {part: sum(op.parts.get(part, 0.0) for op in calls) for part in _CALL_PARTS}
    return ServerTimes(
        queue_s=spent[QUEUE],
        service_s=spent[SERVICE],
        transfer_s=exposed - sum(spent.values()),
        wait_s=spent[LATE],
        busy_share=served.busy,
        staleness_mean=float(served.staleness.mean()),
        staleness_p95=float(np.quantile(served.staleness, 0.95, method="inverted_cdf")),
        staleness_max=float(served.staleness.max()),
        lead_steps=served.lead,
    )
