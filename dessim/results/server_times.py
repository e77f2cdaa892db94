"""Where the time of a step with parameter servers goes, and how stale what workers used was.

Workers do not step together, so a step is what the time looked at holds of them on the average: every worker is always
computing, in a call, or waiting for others, and each of these seconds is shared out over the steps that ended in that
time. The parts add up to the time in which every worker makes one step. Of a call that goes to several servers the part
is that of the last to answer.
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

_PARTS = (QUEUE, SERVICE, LATE)
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class ServerTimes:
    """Seconds of a step that a worker waits in servers' queues, for their service, for messages, and for other workers.

    `busy_share` of the time servers' threads worked. Staleness in versions: how many updates of others a server applied
    between a worker's pull and its push. `lead_steps` is the most that a worker was ahead of the slowest.
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


def served_times(served: ServersResult) -> tuple[Breakdown, ServerTimes]:
    """Take a run apart."""
    ops: dict[str, PathOp] = {}
    sizes: dict[str, float] = {}
    for span in served.record.spans:
        inside = min(span.end, served.end) - max(span.start, served.start)
        if inside > 0:
            share = inside / (span.end - span.start) / served.steps
            op = ops.setdefault(span.name, PathOp(span.name, str(span.kind)))
            add_parts(op.parts, span.parts, share)
            sizes[span.name] = sizes.get(span.name, 0.0) + span.size * share
    compute = sum(op.time_s for op in ops.values() if op.what == Kind.COMPUTE)
    calls = [op for op in ops.values() if op.what != Kind.COMPUTE]
    exposed = sum(op.time_s for op in calls)
    idle = served.step_time - compute - exposed
    spent = {part: sum(op.parts.get(part, 0.0) for op in calls) for part in _PARTS}
    costs = (
        OpCost(op.name, op.what, "", sizes[op.name], op.time_s, op.time_s, {}, op.bound_by) for op in calls if op.parts
    )
    breakdown = Breakdown(
        compute_s=compute,
        exposed_comm_s=exposed,
        idle_s=idle if idle > _ROUNDING * served.step_time else 0.0,
        comm_by_op=tuple(costs),
        bytes_by_link=dict(served.bytes_by_link),
        critical_path=tuple(op for op in ops.values() if op.parts),
        load=Load.nothing(),
    )
    times = ServerTimes(
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
    return breakdown, times
