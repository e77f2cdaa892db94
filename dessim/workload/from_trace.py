"""A recorded trace as a workload: every rank its own class, compute as long as it took, collectives by their size.

What a collective took when it was recorded is not used: that is what the simulator predicts.
"""

from __future__ import annotations

from collections.abc import Mapping

from dessim.errors import TraceError
from dessim.trace.io import Trace, rank_file
from dessim.trace.schema import Kind, Op
from dessim.workload.dag import RankClass, Task, Workload


def workload_from_trace(trace: Trace) -> Workload:
    """The recorded steps of a trace, in order. Raises TraceError where the ops do not form a graph."""
    header = trace.header
    first = min(
        (ops[0].start_us + header.clock_offset_us[rank] for rank, ops in enumerate(trace.ranks) if ops), default=0.0
    )
    classes = []
    for rank, ops in enumerate(trace.ranks):
        if not ops:
            raise TraceError(trace.path / rank_file(rank), "", "no ops were recorded on this rank")
        late = (ops[0].start_us + header.clock_offset_us[rank] - first) * 1e-6
        classes.append(RankClass((rank,), _tasks(trace, rank, ops, max(late, 0.0))))
    return Workload(header.name, header.world_size, tuple(classes), header.groups, header.recorded_steps)


def _tasks(trace: Trace, rank: int, ops: tuple[Op, ...], late: float) -> tuple[Task, ...]:
    position: dict[int, int] = {}
    occurrence: dict[tuple[int, str], int] = {}
    tasks: list[Task] = []
    previous_step_end: int | None = None
    latest: int | None = None
    step: int | None = None
    for number, op in enumerate(ops):
        if op.step != step:
            previous_step_end, step = latest, op.step
        deps = _deps(trace, rank, number, op, position)
        if not deps and previous_step_end is not None:
            deps = (previous_step_end,)  # the host starts a step when it is done with the one before
        if deps:
            ready = max(ops[d].end_us for d in deps)
            delay = max(op.start_us - ready, 0.0) * 1e-6
        else:
            delay = late if not tasks else max(op.start_us - ops[0].start_us, 0.0) * 1e-6 + late
        count = occurrence[op.step, op.name] = occurrence.get((op.step, op.name), 0) + 1
        tasks.append(
            Task(
                name=op.name if count == 1 else f"{op.name}#{count}",
                step=op.step,
                phase=op.phase,
                kind=op.kind,
                stream=op.stream,
                deps=deps,
                delay=delay,
                duration=0.0 if op.kind is Kind.COLLECTIVE else op.dur_us * 1e-6,
                collective=op.collective,
                group=op.group,
                size=float(op.bytes),
                splits=op.splits,
            )
        )
        position[op.id] = number
        if latest is None or op.end_us >= ops[latest].end_us:
            latest = number
    return tuple(tasks)


def _deps(trace: Trace, rank: int, number: int, op: Op, position: Mapping[int, int]) -> tuple[int, ...]:
    missing = [d for d in op.deps if d not in position]
    if missing or op.id in position:
        what = f"waits for op {missing[0]}, which is not before it" if missing else f"id {op.id} is there twice"
        raise TraceError(trace.path / rank_file(rank), str(number + 1), what)
    return tuple(sorted(position[d] for d in op.deps))
