"""Workloads of collectives that depend on nothing else: one alone, or several at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dessim.trace.schema import Collective, Kind, Phase
from dessim.workload.dag import WORLD, RankClass, Task, Workload


def one_collective(
    op: Collective,
    n_ranks: int,
    size: float,
    *,
    splits: Sequence[Sequence[float]] | None = None,
    name: str = "",
) -> Workload:
    """One collective over all of `n_ranks` ranks, of S = `size` bytes (dessim.trace.schema).

    `splits` [n_ranks, n_ranks] gives the bytes that each rank sends to each; every rank then has its own class.
    `name` defaults to that of the collective.
    """
    ranks = range(n_ranks)
    name = name or str(op)
    if splits is None:
        tasks: list[tuple[Sequence[int], Task]] = [(ranks, collective_task(op, size, name=name))]
    else:
        tasks = [
            ((rank,), collective_task(op, size, name=name, splits=tuple(row)))
            for rank, row in zip(ranks, splits, strict=True)
        ]
    return collectives_at_once(tasks, {WORLD: ranks}, n_ranks, name=name)


def collective_task(
    op: Collective,
    size: float,
    *,
    name: str = "",
    group: str = WORLD,
    phase: Phase = Phase.FORWARD,
    stream: str = "comm",
    splits: tuple[float, ...] | None = None,
) -> Task:
    """A collective that waits for nothing; the arguments are fields of Task. `name` defaults to the collective's."""
    return Task(
        name or str(op),
        step=0,
        phase=phase,
        kind=Kind.COLLECTIVE,
        stream=stream,
        collective=op,
        group=group,
        size=size,
        splits=splits,
    )


def collectives_at_once(
    tasks: Iterable[tuple[Sequence[int], Task]], groups: Mapping[str, Sequence[int]], n_ranks: int, *, name: str
) -> Workload:
    """A workload in which each of `tasks` runs on its ranks, all from the start. Ranks without a task stay idle."""
    classes = tuple(RankClass(ranks, (task,)) for ranks, task in tasks)
    return Workload(name, n_ranks, classes, groups, steps=(0,))
