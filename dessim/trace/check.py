"""Is a trace sane, and what is in it?

`check_trace` looks for what would make a replay wrong without looking wrong: collectives that some members did not
join, members that disagree on kind or size, compute ops of one stream that overlap, dependencies that end too late, and
recorded bytes that are not what the op's formula says (FLOPs and memory bytes are counted, their formulas are models:
they need not be equal). It reads the trace only and reports every kind of problem, but of one kind on one rank only
the first few.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any

from dessim.errors import FormulaError
from dessim.trace.io import Trace, rank_file
from dessim.trace.matched import Matched, matched_collectives
from dessim.trace.schema import Collective, Kind, Op, sent_factor

Evaluate = Callable[[str, Mapping[str, float]], float]  # dessim.workload.formula.evaluate

MOST_OF_A_KIND = 5
SLACK_US = 1e-3  # clocks are read to the nanosecond

# Collectives whose S is the same on every member by definition.
_EQUAL_BYTES = frozenset(Collective) - {Collective.ALL_TO_ALL}


def check_trace(trace: Trace, evaluate: Evaluate | None = None) -> list[str]:
    """Problems of a trace, one line each; empty when it is sane.

    `evaluate(formula, symbols)` computes size formulas (dessim.workload.formula.evaluate); without it recorded bytes
    are not held against their formulas.
    """
    problems = list(trace.problems)
    for rank, ops in enumerate(trace.ranks):
        steps = tuple(sorted({op.step for op in ops}))
        if steps != tuple(sorted(trace.header.recorded_steps)):
            recorded = list(trace.header.recorded_steps)
            problems.append(f"{rank_file(rank)}: holds steps {list(steps)}, trace.json says {recorded}")
        problems += _first_few(f"{rank_file(rank)}: ", _order(ops))
        problems += _first_few(f"{rank_file(rank)}: ", _sizes(trace, ops, evaluate))
    problems += _first_few("", _collectives(trace))
    return problems


def _first_few(where: str, found: Iterator[tuple[str, str]]) -> list[str]:
    seen: Counter[str] = Counter()
    lines = []
    for kind, text in found:
        seen[kind] += 1
        if seen[kind] <= MOST_OF_A_KIND:
            lines.append(where + text)
    return lines + [f"{where}{n - MOST_OF_A_KIND} more: {kind}" for kind, n in seen.items() if n > MOST_OF_A_KIND]


def _order(ops: tuple[Op, ...]) -> Iterator[tuple[str, str]]:
    """What is wrong with the order of one rank's ops."""
    by_id: dict[int, Op] = {}
    names: set[tuple[int, str]] = set()
    for op in ops:
        if op.id in by_id:
            yield "ids used twice", f"id {op.id} is used twice ({by_id[op.id].name} and {op.name})"
        if (op.step, op.name) in names:
            yield "names used twice", f"step {op.step} has two ops named {op.name!r}"
        names.add((op.step, op.name))
        by_id[op.id] = op
    for op in ops:
        for dep in op.deps:
            before = by_id.get(dep)
            if before is None:
                yield "unknown dependencies", f"{_name(op)} depends on id {dep}, which is not there"
            elif before.end_us > op.start_us + SLACK_US:
                late = before.end_us - op.start_us
                yield (
                    "late dependencies",
                    f"{_name(op)} starts {late:.3f} us before {before.name!r}, which it needs, ends",
                )
    streams: dict[str, Op] = {}
    # A collective is recorded from its launch to its completion, queueing included: several may be under way.
    running = [op for op in ops if op.kind is not Kind.COLLECTIVE]
    for op in sorted(running, key=lambda o: (o.start_us, o.end_us)):
        last = streams.get(op.stream)
        if last is not None and op.start_us < last.end_us - SLACK_US:
            overlap = last.end_us - op.start_us
            yield "overlaps", f"{_name(op)} overlaps {last.name!r} on stream {op.stream!r} by {overlap:.3f} us"
        if last is None or op.end_us > last.end_us:
            streams[op.stream] = op


def _sizes(trace: Trace, ops: tuple[Op, ...], evaluate: Evaluate | None) -> Iterator[tuple[str, str]]:
    """Recorded sizes of one rank that are not what their formulas give."""
    for op in ops:
        members = trace.header.groups.get(op.group, ()) if op.group is not None else ()
        if op.splits is not None and min(op.splits, default=0) < 0:
            yield "negative splits", f"{_name(op)} has negative splits"
        elif op.splits is not None and sum(op.splits) != op.bytes:
            yield "splits", f"{_name(op)} has splits of {sum(op.splits)} bytes in all, but bytes = {op.bytes}"
        if op.splits is not None and op.group is not None and len(op.splits) != len(members):
            yield "split counts", f"{_name(op)} has {len(op.splits)} splits for a group of {len(members)}"
        if evaluate is None:
            continue
        if op.size is None:
            continue
        try:
            expected = round(evaluate(op.size, {**trace.header.symbols, **op.vars}))
        except FormulaError as error:
            yield "formulas", f"{_name(op)}: {error}"
            continue
        if expected != op.bytes:
            yield "bytes not as their formula", f"{_name(op)} recorded {op.bytes} bytes, {op.size!r} gives {expected}"


def _collectives(trace: Trace) -> Iterator[tuple[str, str]]:
    """Collectives that not every member of their group joined, or whose members disagree."""
    calls: dict[tuple[int, str, str], dict[int, Op]] = {}
    orders: dict[tuple[int, str], dict[int, list[str]]] = {}
    for rank, ops in enumerate(trace.ranks):
        for op in ops:
            if op.kind is not Kind.COLLECTIVE or op.group is None:
                continue
            members = trace.header.groups.get(op.group)
            if members is None:
                yield (
                    "unknown groups",
                    f"rank {rank}: {_name(op)} is in group {op.group!r}, which trace.json does not have",
                )
            elif rank not in members:
                yield (
                    "strangers",
                    f"rank {rank}: {_name(op)} is in group {op.group!r}, of which rank {rank} is no member",
                )
            else:
                calls.setdefault((op.step, op.group, op.name), {})[rank] = op
                orders.setdefault((op.step, op.group), {}).setdefault(rank, []).append(op.name)
    for (_, group, _), by_rank in calls.items():
        yield from _one_collective(trace.header.groups[group], by_rank)
    for (step, group), by_rank_order in orders.items():
        first = next(iter(by_rank_order))
        for rank, order in by_rank_order.items():
            if sorted(order) == sorted(by_rank_order[first]) and order != by_rank_order[first]:
                yield (
                    "orders",
                    f"step {step}: ranks {first} and {rank} call the collectives of {group!r} in other orders",
                )


def _one_collective(members: tuple[int, ...], by_rank: Mapping[int, Op]) -> Iterator[tuple[str, str]]:
    first_rank = min(by_rank)
    first = by_rank[first_rank]
    missing = [r for r in members if r not in by_rank]
    if missing:
        yield (
            "missing members",
            f"{_name(first)} is not on rank {', '.join(map(str, missing[:8]))} of group {first.group!r}",
        )
        return
    for rank in members:
        op = by_rank[rank]
        if op.collective is not first.collective:
            what = f"{first.collective} on rank {first_rank} and {op.collective} on rank {rank}"
            yield "kinds", f"{_name(first)} is {what}"
            return
        if op.dtype != first.dtype:
            what = f"{first.dtype} on rank {first_rank} and {op.dtype} on rank {rank}"
            yield "dtypes", f"{_name(first)} has dtype {what}"
        if first.collective in _EQUAL_BYTES and op.bytes != first.bytes:
            what = f"{first.bytes} bytes on rank {first_rank} and {op.bytes} on rank {rank}"
            yield "unequal bytes", f"{_name(first)} moves {what}"
    if first.collective is Collective.ALL_TO_ALL:
        # Without splits a rank sends equal shares, so every pair must agree on one size.
        uneven = [r for r in members if by_rank[r].splits is not None]
        even = [r for r in members if by_rank[r].splits is None]
        if uneven and even:
            yield "splits on some ranks", f"{_name(first)} has splits on rank {uneven[0]} but none on rank {even[0]}"
        elif even and len({by_rank[r].bytes for r in even}) > 1:
            yield "unequal bytes", f"{_name(first)} is an even all_to_all, but its bytes differ between ranks"


def _name(op: Op) -> str:
    return f"step {op.step} op {op.id} {op.name!r}"


def describe_trace(trace: Trace) -> dict[str, Any]:
    """What a trace holds: who ran, how long steps took, and per op its bytes and time.

    Times are seconds. `step_time_s` is from the first start to the last end of a step over all ranks, clocks aligned by
    their offsets. Shares are of the ranks' own steps, summed; `exposed_comm_share` is where only communication ran.
    A collective's `waiting_s` is how long each rank waited for the last one, `transfer_s` what it took from then on.
    """
    header = trace.header
    by_step = [_by_step(ops) for ops in trace.ranks]
    spans = [_span([steps.get(s, []) for steps in by_step], header.clock_offset_us) for s in header.recorded_steps]
    parts = [_busy(steps.get(s, [])) for steps in by_step for s in header.recorded_steps]
    whole = sum(p[0] for p in parts) or 1.0
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
        "compute_share": sum(p[1] for p in parts) / whole,
        "exposed_comm_share": sum(p[2] for p in parts) / whole,
        "idle_share": sum(p[3] for p in parts) / whole,
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
    """First start to last end of a step over all ranks, us."""
    ends = [(op.start_us + o, op.end_us + o) for ops, o in zip(ranks, offsets, strict=True) for op in ops]
    return max(e for _, e in ends) - min(s for s, _ in ends) if ends else 0.0


def _statistics(values: list[float]) -> dict[str, float | int]:
    if not values:
        return {"n": 0}
    mean = sum(values) / len(values)
    return {"n": len(values), "median": median(values), "mean": mean, "min": min(values), "max": max(values)}


def _busy(ops: list[Op]) -> tuple[float, float, float, float]:
    """One rank's step in us: whole, computing, communicating only, neither."""
    if not ops:
        return 0.0, 0.0, 0.0, 0.0
    computing = union([(o.start_us, o.end_us) for o in ops if o.kind is Kind.COMPUTE])
    working = union([(o.start_us, o.end_us) for o in ops])
    whole = max(o.end_us for o in ops) - min(o.start_us for o in ops)
    return whole, computing, working - computing, whole - working


def union(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reach = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reach))
        reach = max(reach, end)
    return total


def _sent(trace: Trace) -> float:
    steps = max(1, len(trace.header.recorded_steps)) * trace.header.world_size
    total = 0.0
    for ops in trace.ranks:
        for op in ops:
            if op.collective is not None and op.group is not None:
                total += sent_factor(op.collective, len(trace.header.groups.get(op.group, ()))) * op.bytes
    return total / steps


def _by_op(trace: Trace) -> list[dict[str, Any]]:
    found: dict[str, list[Op]] = {}
    for ops in trace.ranks:
        for op in ops:
            found.setdefault(op.name, []).append(op)
    matched: dict[str, list[Matched]] = {}
    for one in matched_collectives(trace):
        matched.setdefault(one.name, []).append(one)
    return [
        {
            "name": name,
            "kind": str(same[0].kind),
            "collective": None if same[0].collective is None else str(same[0].collective),
            "phase": str(same[0].phase),
            "calls": len(same),
            "bytes_mean": sum(op.bytes for op in same) / len(same),
            "time_s": _statistics([1e-6 * op.dur_us for op in same]),
            "waiting_s": _statistics([1e-6 * w for one in matched.get(name, ()) for w in one.waiting_us.values()]),
            "transfer_s": _statistics([1e-6 * one.transfer_us for one in matched.get(name, ())]),
        }
        for name, same in found.items()
    ]
