"""A task that is one collective, for workloads that run collectives without a training step around them."""

from __future__ import annotations

from dessim.trace.schema import Collective, Kind, Phase
from dessim.workload.dag import Task


def collective_task(
    op: Collective,
    group: str,
    size: float,
    *,
    name: str | None = None,
    phase: Phase = Phase.FORWARD,
    splits: tuple[float, ...] | None = None,
) -> Task:
    """Return a task of step 0 that runs `op` on S = `size` bytes in `group`.

    `splits` are the bytes that the rank sends to each member of an uneven all_to_all. `name` defaults to that of the
    op; tasks of different ranks must have the same name to meet in the same collective.
    """
    return Task(
        name=name or str(op),
        step=0,
        phase=phase,
        kind=Kind.COLLECTIVE,
        stream="comm",
        collective=op,
        group=group,
        size=size,
        splits=splits,
    )
