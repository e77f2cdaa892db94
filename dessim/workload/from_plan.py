"""A strategy's plan as a workload, with a rank class for each kind of owner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dessim.trace.schema import Kind
from dessim.workload.dag import WORLD, Loads, RankClass, Task, Workload
from dessim.workload.owners import Owner, by_rank, sizes_of
from dessim.workload.plan import OwnerRole, Participants, Plan, PlannedOp

Symbols = Mapping[str, float]


def workload_from_plan(
    plan: Plan,
    symbols: Symbols,
    durations: Sequence[Mapping[str, float]],
    steps: int = 1,
    owners: Sequence[Owner] | None = None,
) -> Workload:
    """`steps` steps of `plan` on symbols["N"] ranks. Each rank starts a step when it has finished the one before.

    `owners` partition the ranks (default: all ranks own equal shares). `durations` are the seconds of every op except
    collectives, by name, for each owner.
    """
    n = int(symbols["N"])
    owners = owners or (Owner(range(n)),)
    totals = {op.name: sizes_of(op, symbols, owners) for op in plan.collectives}
    groups: dict[str, Sequence[int]] = {WORLD: range(n)}
    by_group: dict[tuple[str, str], Loads | None] = {}
    classes = []
    for i, (owner, seconds) in enumerate(zip(owners, durations, strict=True)):
        sizes = {name: of[i] for name, of in totals.items()}
        for ranks in _of_same_groups(plan, owner.ranks):
            own = {op.name: op.participants.group(ranks[0], n, int(symbols.get("L", n))) for op in plan.collectives}
            groups |= dict(own.values())
            names = {op: name for op, (name, _) in own.items()}
            for op in plan.collectives:
                if (op.name, names[op.name]) not in by_group:
                    loads_of_op = _loads(op, totals[op.name], owners, own[op.name][1])
                    by_group[op.name, names[op.name]] = loads_of_op
            loads = {op: by_group[op, name] for op, name in names.items()}
            tasks = _tasks(plan, sizes, names, loads=loads, durations=seconds, steps=steps)
            classes.append(RankClass(ranks, tasks))
    return Workload(plan.strategy, n, tuple(classes), groups, tuple(range(steps)))


def _of_same_groups(plan: Plan, ranks: Sequence[int]) -> list[Sequence[int]]:
    """`ranks` in parts that take part in the same collectives."""
    if all(op.participants is Participants.ALL for op in plan.collectives):
        return [ranks]
    return [(rank,) for rank in ranks]


def _tasks(
    plan: Plan,
    sizes: Mapping[str, float],
    groups: Mapping[str, str],
    *,
    loads: Mapping[str, Loads | None],
    durations: Mapping[str, float],
    steps: int,
) -> tuple[Task, ...]:
    """The tasks of a rank class; `sizes`, `groups` and `loads` are those of collectives, by name."""
    count = len(plan.ops)
    position = {op.name: i for i, op in enumerate(plan.ops)}
    awaited = {dep for op in plan.ops for dep in op.deps}
    last = [i for i, op in enumerate(plan.ops) if op.name not in awaited]
    return tuple(
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
            group=groups.get(op.name),
            size=sizes.get(op.name, 0.0),
            loads=loads.get(op.name),
        )
        for step in range(steps)
        for op in plan.ops
    )


def _loads(op: PlannedOp, sizes: Sequence[float], owners: Sequence[Owner], group: range) -> Loads | None:
    """The bytes that each rank of a group sends or receives in an AllToAll with owners; None where they are equal."""
    if op.role not in (OwnerRole.SENDS, OwnerRole.RECEIVES) or len(set(sizes)) == 1:
        return None
    totals = by_rank(owners, sizes)[group.start : group.stop : group.step].tolist()
    return Loads(tuple(totals), received=op.role is OwnerRole.RECEIVES)
