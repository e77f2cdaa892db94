"""Parameter server, asynchronous: what `ps_sync` moves and computes, without waiting for the others.

The ops of a worker's step are the same, and so are their bytes but for 8 that say how much a push brings, because a
server takes messages as they come. It applies each push at once instead of the sum of all, and a worker's next pull
waits for its own push alone, or for workers too far behind (bounded staleness).
"""

from __future__ import annotations

from dataclasses import replace

from dessim.trace.schema import Collective, Phase
from dessim.workload.model import Model
from dessim.workload.plan import Plan, PlannedOp, Traffic, collective
from dessim.workload.strategies.ps import ps_sync


def ps_async(model: Model) -> Plan:
    """Plan of a worker's step with an asynchronous parameter server."""
    counts = collective("push_counts", Phase.BACKWARD, Collective.ALL_TO_ALL, Traffic.CONTROL, "N*8", "scatter_grad")
    ops: list[PlannedOp] = []
    for op in ps_sync(model).ops:
        match op.name:
            case "push_keys":
                ops += [counts, replace(op, deps=("push_counts",))]
            case "sum_grad":
                continue
            case "update_rows":
                ops.append(replace(op, deps=("push_keys", "push_rows")))
            case _:
                ops.append(op)
    # Rows that were asked for a step ahead would be staler by a step.
    return Plan("ps_async", tuple(ops), pipelines=False)
