"""A strategy's plan as a workload: all ranks do the same, so one rank class stands for all of them."""

from __future__ import annotations

from collections.abc import Mapping

from dessim.trace.schema import Kind
from dessim.workload.dag import RankClass, Task, Workload
from dessim.workload.plan import Plan

WORLD = "world"


def workload_from_plan(plan: Plan, symbols: Mapping[str, float], durations: Mapping[str, float]) -> Workload:
    """One step of `plan` on symbols["N"] ranks. `durations` gives the seconds of every op but collectives."""
    n = int(symbols["N"])
    position = {op.name: i for i, op in enumerate(plan.ops)}
    tasks = tuple(
        Task(
            name=op.name,
            step=0,
            phase=op.phase,
            kind=op.kind,
            stream=op.stream,
            deps=tuple(position[d] for d in op.deps),
            duration=0.0 if op.kind is Kind.COLLECTIVE else durations[op.name],
            collective=op.collective,
            group=WORLD if op.collective is not None else None,
            size=op.even_size(symbols),
        )
        for op in plan.ops
    )
    ranks = range(n)
    return Workload(plan.strategy, n, (RankClass(ranks, tasks),), {WORLD: ranks}, (0,))
