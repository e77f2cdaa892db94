"""A recorded trace as a workload: each rank in its own class, compute with recorded durations, collectives by size.

The recorded durations of collectives are not used, since the simulator predicts them.

Recorded steps need not be consecutive, so they are replayed separately. All ranks enter a step through a barrier that
costs nothing, and then start it with their recorded offsets. Within a step the host launches ops one after another and
spends time between them that no op accounts for. So each op also waits for its *anchor*, the op with the latest end
before this one's start on the same thread (one of the last ops before it, or one that it depends on), and then for the
recorded time between the two. Ops of the stream `prefetch` belong to a second thread, so their anchors are ops of that
stream. Both threads start a step together, and a step ends when both have finished.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dessim.errors import TraceError
from dessim.trace.check import Places
from dessim.trace.io import Trace, rank_file
from dessim.trace.schema import PREFETCH, Collective, Kind, Op
from dessim.workload.dag import RankClass, Task, Workload

_MAX_LOOK_BACK = 64  # ops before an op among which its anchor is searched
ALL_RANKS = "every rank"  # the group of the barrier between steps


def workload_from_trace(trace: Trace, stretch: Callable[[Op], float] | None = None) -> Workload:
    """The recorded steps of a trace, in order.

    `stretch` gives the factor by which a compute op's recorded duration is multiplied; 1 by default.
    Raises TraceError if a rank has no ops, if an op waits for one that is not before it, and if its group or peer does
    not exist.
    """
    header = trace.header
    places = Places(header)
    first: dict[int, float] = {}  # start of each step on the earliest rank, in us on rank 0's clock
    for rank, ops in enumerate(trace.ranks):
        if not ops:
            raise TraceError(trace.path / rank_file(rank), "", "no ops were recorded on this rank")
        for number, op in enumerate(ops):
            if wrong := places.problem(op, rank):
                raise TraceError(trace.path / rank_file(rank), str(number + 1), f"op {op.name!r} {wrong}")
            start = op.start_us + header.clock_offset_us[rank]
            first[op.step] = min(first.get(op.step, start), start)
    classes = tuple(
        RankClass((rank,), _tasks(trace, rank, first, stretch or (lambda _: 1.0))) for rank in range(header.world_size)
    )
    groups = {**header.groups, ALL_RANKS: range(header.world_size)}
    return Workload(header.name, header.world_size, classes, groups, header.recorded_steps)


def _tasks(trace: Trace, rank: int, first: Mapping[int, float], stretch: Callable[[Op], float]) -> tuple[Task, ...]:
    ops = trace.ranks[rank]
    offset = trace.header.clock_offset_us[rank]
    tasks: list[Task] = []
    position: dict[int, int] = {}  # op id -> its task
    index: dict[int, int] = {}  # op id -> its place in `ops`
    occurrence: dict[tuple[int, str], int] = {}
    entry = -1  # position of the task that enters the step
    for number, op in enumerate(ops):
        if number == 0 or op.step != ops[number - 1].step:
            tasks.append(_enter(op, tuple(range(max(entry, 0), len(tasks)))))
            entry = len(tasks) - 1
        deps = _deps(trace, rank, number, op, position)
        # Ops overlap little, so the anchor is among the most recent ones, but for a collective that ran beside many.
        recent = ops[max(number - _MAX_LOOK_BACK, 0) : number]
        awaited = [ops[index[dep]] for dep in op.deps if index[dep] < number - _MAX_LOOK_BACK]
        finished = [
            earlier
            for earlier in (*awaited, *recent)
            if earlier.step == op.step
            and earlier.end_us <= op.start_us
            and (earlier.stream == PREFETCH) == (op.stream == PREFETCH)
        ]
        anchor = max(finished, key=lambda earlier: earlier.end_us, default=None)
        delay = op.start_us - anchor.end_us if anchor else op.start_us + offset - first[op.step]
        count = occurrence.get((op.step, op.name), 0) + 1
        occurrence[op.step, op.name] = count
        tasks.append(
            Task(
                name=op.name if count == 1 else f"{op.name}#{count}",
                step=op.step,
                phase=op.phase,
                kind=op.kind,
                stream=op.stream,
                deps=tuple(sorted({entry, *deps, *([position[anchor.id]] if anchor else [])})),
                delay=delay * 1e-6,
                duration=0.0 if op.kind is Kind.COLLECTIVE else op.dur_us * 1e-6 * stretch(op),
                collective=op.collective,
                group=op.group,
                size=float(op.bytes),
                splits=op.splits,
            )
        )
        position[op.id] = len(tasks) - 1
        index[op.id] = number
    return tuple(tasks)


def _enter(op: Op, deps: tuple[int, ...]) -> Task:
    """The barrier before a step, which waits for all ops of the step before."""
    return Task(
        "enter", op.step, op.phase, Kind.COLLECTIVE, "host", deps, collective=Collective.BARRIER, group=ALL_RANKS
    )


def _deps(trace: Trace, rank: int, number: int, op: Op, position: Mapping[int, int]) -> tuple[int, ...]:
    missing = [d for d in op.deps if d not in position]
    if missing or op.id in position:
        what = f"waits for op {missing[0]}, which is not before it" if missing else f"id {op.id} appears twice"
        raise TraceError(trace.path / rank_file(rank), str(number + 1), what)
    return tuple(sorted(position[d] for d in op.deps))
