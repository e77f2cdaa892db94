"""A strategy's plan as a workload. All ranks run the same ops, so one rank class stands for all of them."""

from __future__ import annotations

from collections.abc import Mapping

from dessim.trace.schema import Kind
from dessim.workload.dag import WORLD, RankClass, Task, Workload
from dessim.workload.plan import Plan


def workload_from_plan(
    plan: Plan, symbols: Mapping[str, float], durations: Mapping[str, float], steps: int = 1
) -> Workload:
    """`steps` steps of `plan` on symbols["N"] ranks. Each rank starts a step when it has finished the one before.

    `durations`: seconds of every op except collectives, by name.
    """
    n = int(symbols["N"])
    count = len(plan.ops)
    position = {op.name: i for i, op in enumerate(plan.ops)}
    awaited = {dep for op in plan.ops for dep in op.deps}
    last = [i for i, op in enumerate(plan.ops) if op.name not in awaited]
    tasks = tuple(
        Task(
            name=op.name,
            step=step,
            phase=op.phase,
            kind=op.kind,
            stream=op.stream,
            deps=tuple(position[dep] + step * count for dep in op.deps)
            or tuple(i + (step - 1) * count for i in last if step),
            duration=0.0 if op.kind is Kind.COLLECTIVE else durations[op.name],
            collective=op.collective,
            group=WORLD if op.collective is not None else None,
            size=op.even_size(symbols),
        )
        for step in range(steps)
        for op in plan.ops
    )
    ranks = range(n)
    return Workload(plan.strategy, n, (RankClass(ranks, tasks),), {WORLD: ranks}, tuple(range(steps)))
