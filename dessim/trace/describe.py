"""A summary of a trace: its run, the time of its steps, and bytes and time per op."""

from __future__ import annotations

from statistics import median
from typing import Any, NamedTuple

from dessim.trace.io import Trace
from dessim.trace.matched import Matched, matched_collectives
from dessim.trace.schema import Kind, Op, sent_factor


def describe_trace(trace: Trace) -> dict[str, Any]:
    """A summary of the job, the time of its steps, and bytes and time per op, as JSON with units in its keys.

    `step_time_s` is from the first start to the last end of a step over all ranks, on aligned clocks. Shares are of the
    ranks' own steps, summed; `exposed_comm_share` is the time in which only communication ran. A collective's
    `waiting_s` is the time that each rank waited for the last one, `transfer_s` the time from then on.
    """
    header = trace.header
    by_step = [_by_step(ops) for ops in trace.ranks]
    spans = [_span([steps.get(s, []) for steps in by_step], header.clock_offset_us) for s in header.recorded_steps]
    times = [_step_times(steps.get(s, [])) for steps in by_step for s in header.recorded_steps]
    total = sum(t.total for t in times) or 1.0
    return {
        "name": header.name,
        "strategy": header.strategy,
        "backend": header.backend,
        "device": header.device,
        "ranks": header.world_size,
        "steps": len(header.recorded_steps),
        "warmup_steps": len(header.warmup_steps),
        "ops": sum(len(ops) for ops in trace.ranks),
        "step_time_s": _statistics([1e-6 * v for v in spans]),
        "measured_s": {k: _statistics([1e-6 * v for v in values]) for k, values in header.step_us.items()},
        "compute_share": sum(t.compute for t in times) / total,
        "exposed_comm_share": sum(t.exposed_comm for t in times) / total,
        "idle_share": sum(t.idle for t in times) / total,
        "bytes_sent_per_rank_per_step": _sent(trace),
        "by_op": _by_op(trace),
        "problems": list(trace.problems),
    }


def _by_step(ops: tuple[Op, ...]) -> dict[int, list[Op]]:
    steps: dict[int, list[Op]] = {}
    for op in ops:
        steps.setdefault(op.step, []).append(op)
    return steps


def _span(ranks: list[list[Op]], offsets: tuple[float, ...]) -> float:
    """Microseconds from the first start to the last end of a step over all ranks."""
    ends = [(op.start_us + o, op.end_us + o) for ops, o in zip(ranks, offsets, strict=True) for op in ops]
    return max(e for _, e in ends) - min(s for s, _ in ends) if ends else 0.0


def _statistics(values: list[float]) -> dict[str, float | int]:
    if not values:
        return {"n": 0}
    mean = sum(values) / len(values)
    return {"n": len(values), "median": median(values), "mean": mean, "min": min(values), "max": max(values)}


class _StepTimes(NamedTuple):
    """The microseconds of one rank's step: total, computing, only communicating, and idle."""

    total: float
    compute: float
    exposed_comm: float
    idle: float


def _step_times(ops: list[Op]) -> _StepTimes:
    if not ops:
        return _StepTimes(0.0, 0.0, 0.0, 0.0)
    compute = union([(o.start_us, o.end_us) for o in ops if o.kind is Kind.COMPUTE])
    busy = union([(o.start_us, o.end_us) for o in ops])
    total = max(o.end_us for o in ops) - min(o.start_us for o in ops)
    return _StepTimes(total=total, compute=compute, exposed_comm=busy - compute, idle=total - busy)


def union(intervals: list[tuple[float, float]]) -> float:
    """The length of the union of intervals (start, end)."""
    length = 0.0
    reach = float("-inf")
    for start, end in sorted(intervals):
        length += max(0.0, end - max(start, reach))
        reach = max(reach, end)
    return length


def _sent(trace: Trace) -> float:
    """Bytes that a rank sends per step, on average."""
    steps = max(1, len(trace.header.recorded_steps)) * trace.header.world_size
    total = 0.0
    for ops in trace.ranks:
        for op in ops:
            if op.collective is not None and op.group is not None:
                total += sent_factor(op.collective, len(trace.header.groups.get(op.group, ()))) * op.bytes
    return total / steps


def _by_op(trace: Trace) -> list[dict[str, Any]]:
    ops_of: dict[str, list[Op]] = {}
    for ops in trace.ranks:
        for op in ops:
            ops_of.setdefault(op.name, []).append(op)
    matched_of: dict[str, list[Matched]] = {}
    for collective in matched_collectives(trace):
        matched_of.setdefault(collective.name, []).append(collective)
    return [
        {
            "name": name,
            "kind": str(ops[0].kind),
            "collective": None if ops[0].collective is None else str(ops[0].collective),
            "phase": str(ops[0].phase),
            "calls": len(ops),
            "bytes_mean": sum(op.bytes for op in ops) / len(ops),
            "time_s": _statistics([1e-6 * op.dur_us for op in ops]),
            "waiting_s": _statistics([1e-6 * us for m in matched_of.get(name, ()) for us in m.waiting_us.values()]),
            "transfer_s": _statistics([1e-6 * m.transfer_us for m in matched_of.get(name, ())]),
        }
        for name, ops in ops_of.items()
    ]
