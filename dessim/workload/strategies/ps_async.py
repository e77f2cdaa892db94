"""The asynchronous parameter server: the messages and computations of `ps_sync`, without waiting for other workers.

A worker's step has the same ops and, apart from 8 bytes, the same messages. The 8 bytes announce how many rows a push
holds, because a server handles messages in order of arrival. A server applies each push at once instead of the sum of
all pushes. A worker's next pull waits only for its own push, or for workers that lag too far (bounded staleness).
"""

from __future__ import annotations

from dataclasses import replace

from dessim.trace.schema import Collective, Phase
from dessim.workload.model import Model
from dessim.workload.options import Options
from dessim.workload.plan import Plan, PlannedOp, Traffic, collective
from dessim.workload.strategies.ps import ps_sync
from dessim.workload.strategies.spec import StrategySpec
from dessim.workload.symbols import COUNTS


def ps_async(model: Model) -> Plan:
    """Plan of a worker's step with an asynchronous parameter server."""
    counts = collective("push_counts", Phase.BACKWARD, Collective.ALL_TO_ALL, Traffic.CONTROL, COUNTS, "scatter_grad")
    ops: list[PlannedOp] = []
    for op in ps_sync(model, Options()).ops:
        match op.name:
            case "push_keys":
                ops += [counts, replace(op, deps=("push_counts",))]
            case "sum_grad":
                continue
            case "update_rows":
                ops.append(replace(op, deps=("push_keys", "push_rows")))
            case _:
                ops.append(op)
    return Plan("ps_async", tuple(ops), busiest_by="u")


PS_ASYNC = StrategySpec(
    "ps_async",
    build=lambda model, options: ps_async(model),
    has_servers=True,
    dedicated_servers=True,
    synchronous=False,
    pipelines=False,  # rows requested a step ahead would be staler by one step
    traced_as="ps_sync",
)
