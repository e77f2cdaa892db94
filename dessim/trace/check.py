"""Check a trace for errors that would make a replay silently wrong.

Such errors are: collectives that some members did not join, members that disagree on kind or size, overlapping compute
ops on one stream, dependencies that end too late, and recorded bytes that differ from the op's formula. Formulas of
FLOPs and of bytes of memory are models, which leave out temporaries and new rows; counts may differ from them by a
factor, but not by orders of magnitude. Only the trace is read. Every kind of problem is reported, but only the first
few of one kind on one rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain

from dessim.errors import FormulaError
from dessim.trace.io import Trace, rank_file
from dessim.trace.schema import Collective, Header, Kind, Op

Evaluate = Callable[[str, Mapping[str, float]], float]  # dessim.workload.formula.evaluate

Problem = tuple[str, str]
"""The kind of a problem, and the line that describes it."""

MAX_LINES_PER_KIND = 5
SLACK_US = 1e-3  # clocks are read to the nanosecond

# Recorded counts of work over their formulas are between 0.3 and 45 in all strategies of des_ref.
MOST_OFF = 100.0

# Collectives whose S is the same on every member by definition.
_EQUAL_BYTES = frozenset(Collective) - {Collective.ALL_TO_ALL}


def check_trace(trace: Trace, evaluate: Evaluate | None = None) -> list[str]:
    """The problems of a trace, one line each; empty if it has none.

    `evaluate(formula, symbols)` computes size formulas; without it recorded bytes are not compared with their formulas.
    """
    problems = list(trace.problems)
    places = Places(trace.header)
    for rank, ops in enumerate(trace.ranks):
        steps = tuple(sorted({op.step for op in ops}))
        if steps != tuple(sorted(trace.header.recorded_steps)):
            recorded = list(trace.header.recorded_steps)
            problems.append(f"{rank_file(rank)}: holds steps {list(steps)}, trace.json says {recorded}")
        problems += _first_few(f"{rank_file(rank)}: ", chain(_names(ops), _dependencies(ops), _overlaps(ops)))
        problems += _first_few(f"{rank_file(rank)}: ", places.problems(ops, rank))
        problems += _first_few(f"{rank_file(rank)}: ", _sizes(trace, ops, evaluate))
    problems += _first_few("", _collectives(trace))
    return problems


def _first_few(where: str, problems: Iterator[Problem]) -> list[str]:
    """The first lines of each kind, and the number of further ones."""
    counts: Counter[str] = Counter()
    lines = []
    for kind, text in problems:
        counts[kind] += 1
        if counts[kind] <= MAX_LINES_PER_KIND:
            lines.append(where + text)
    more = {kind: n - MAX_LINES_PER_KIND for kind, n in counts.items() if n > MAX_LINES_PER_KIND}
    return lines + [f"{where}{n} more: {kind}" for kind, n in more.items()]


def _names(ops: tuple[Op, ...]) -> Iterator[Problem]:
    """Ids and names that one rank uses twice."""
    by_id: dict[int, Op] = {}
    names: set[tuple[int, str]] = set()
    for op in ops:
        if op.id in by_id:
            yield "ids used twice", f"id {op.id} is used twice ({by_id[op.id].name} and {op.name})"
        if (op.step, op.name) in names:
            yield "names used twice", f"step {op.step} has two ops named {op.name!r}"
        names.add((op.step, op.name))
        by_id[op.id] = op


class Places:
    """Whether the group and the peer of an op exist, and its rank takes part."""

    def __init__(self, header: Header) -> None:
        self._ranks = range(header.world_size)
        self._groups = {name: frozenset(ranks) for name, ranks in header.groups.items()}

    def problem(self, op: Op, rank: int) -> str:
        """The error of an op of `rank`; empty if it has none."""
        if op.group is not None and op.group not in self._groups:
            return f"is on group {op.group!r}, which trace.json does not list"
        if op.group is not None and rank not in self._groups[op.group]:
            return f"is on group {op.group!r}, of which rank {rank} is not a member"
        return self._of_peer(op)

    def _of_peer(self, op: Op) -> str:
        if op.peer is None or op.peer in self._ranks:
            return ""
        return f"has peer {op.peer}, but the job has ranks 0 to {len(self._ranks) - 1}"

    def problems(self, ops: tuple[Op, ...], rank: int) -> Iterator[Problem]:
        """The problems of a rank's ops, without the groups of collectives, which `_collectives` checks."""
        for op in ops:
            wrong = self._of_peer(op) if op.kind is Kind.COLLECTIVE else self.problem(op, rank)
            if wrong:
                yield "unknown peers and groups", f"{_name(op)} {wrong}"


def _dependencies(ops: tuple[Op, ...]) -> Iterator[Problem]:
    """Dependencies of one rank's ops that do not exist or end too late."""
    by_id = {op.id: op for op in ops}
    for op in ops:
        for dep in op.deps:
            earlier = by_id.get(dep)
            if earlier is None:
                yield "unknown dependencies", f"{_name(op)} depends on id {dep}, which does not exist"
            elif earlier.end_us > op.start_us + SLACK_US:
                late = earlier.end_us - op.start_us
                text = f"{_name(op)} starts {late:.3f} us before its dependency {earlier.name!r} ends"
                yield "late dependencies", text


def _overlaps(ops: tuple[Op, ...]) -> Iterator[Problem]:
    """Ops of one rank that overlap on a stream.

    Collectives may: each is recorded from its launch to its completion, queueing included.
    """
    last_of_stream: dict[str, Op] = {}
    running = [op for op in ops if op.kind is not Kind.COLLECTIVE]
    for op in sorted(running, key=lambda o: (o.start_us, o.end_us)):
        last = last_of_stream.get(op.stream)
        if last is not None and op.start_us < last.end_us - SLACK_US:
            overlap = last.end_us - op.start_us
            yield "overlaps", f"{_name(op)} overlaps {last.name!r} on stream {op.stream!r} by {overlap:.3f} us"
        if last is None or op.end_us > last.end_us:
            last_of_stream[op.stream] = op


def _sizes(trace: Trace, ops: tuple[Op, ...], evaluate: Evaluate | None) -> Iterator[Problem]:
    """Inconsistent splits of one rank, and bytes that differ from their formulas."""
    for op in ops:
        members = trace.header.groups.get(op.group, ()) if op.group is not None else ()
        if op.splits is not None and min(op.splits, default=0) < 0:
            yield "negative splits", f"{_name(op)} has negative splits"
        elif op.splits is not None and sum(op.splits) != op.bytes:
            yield "splits", f"{_name(op)} has splits of {sum(op.splits)} bytes in total, but bytes = {op.bytes}"
        if op.splits is not None and op.group is not None and len(op.splits) != len(members):
            yield "split counts", f"{_name(op)} has {len(op.splits)} splits for a group of {len(members)}"
        if evaluate is None:
            continue
        yield from _work(trace, op, evaluate)
        if op.size is None:
            continue
        try:
            expected = round(evaluate(op.size, {**trace.header.symbols, **op.vars}))
        except FormulaError as error:
            yield "formulas", f"{_name(op)}: {error}"
            continue
        if expected != op.bytes:
            text = f"{_name(op)} recorded {op.bytes} bytes, but {op.size!r} gives {expected}"
            yield "bytes that differ from their formula", text


def _work(trace: Trace, op: Op, evaluate: Evaluate) -> Iterator[Problem]:
    """FLOPs and bytes of memory of an op that are far from their formulas. A count of 0 was not taken."""
    counts = (("flops", op.flops, op.flops_size), ("mem_bytes", op.mem_bytes, op.mem_size))
    for name, counted, formula in counts:
        if formula is None or not counted:
            continue
        try:
            expected = evaluate(formula, {**trace.header.symbols, **op.vars})
        except FormulaError as error:
            yield "formulas", f"{_name(op)}: {error}"
            continue
        if expected > 0 and not 1 / MOST_OFF <= counted / expected <= MOST_OFF:
            text = f"{_name(op)} counted {name} = {counted}, but {formula!r} gives {expected:.0f}"
            yield f"{name} far from their formula", text


def _collectives(trace: Trace) -> Iterator[Problem]:
    """Collectives that some member of their group did not join, or on which members disagree."""
    calls: dict[tuple[int, str, str], dict[int, Op]] = {}
    orders: dict[tuple[int, str], dict[int, list[str]]] = {}
    for rank, ops in enumerate(trace.ranks):
        for op in ops:
            if op.kind is not Kind.COLLECTIVE or op.group is None:
                continue
            members = trace.header.groups.get(op.group)
            where = f"rank {rank}: {_name(op)} is in group {op.group!r}"
            if members is None:
                yield "unknown groups", f"{where}, which trace.json does not list"
            elif rank not in members:
                yield "ranks outside the group", f"{where}, but rank {rank} is not a member of it"
            else:
                calls.setdefault((op.step, op.group, op.name), {})[rank] = op
                orders.setdefault((op.step, op.group), {}).setdefault(rank, []).append(op.name)
    for (_, group, _), by_rank in calls.items():
        yield from _one_collective(trace.header.groups[group], by_rank)
    for (step, group), by_rank_order in orders.items():
        first = next(iter(by_rank_order))
        for rank, order in by_rank_order.items():
            if sorted(order) == sorted(by_rank_order[first]) and order != by_rank_order[first]:
                text = f"step {step}: ranks {first} and {rank} call the collectives of {group!r} in different orders"
                yield "orders", text


def _one_collective(members: tuple[int, ...], by_rank: Mapping[int, Op]) -> Iterator[Problem]:
    first_rank = min(by_rank)
    first = by_rank[first_rank]
    missing = [r for r in members if r not in by_rank]
    if missing:
        ranks = ", ".join(map(str, missing[:8]))
        yield "missing members", f"{_name(first)} is missing on rank {ranks} of group {first.group!r}"
        return
    for rank in members:
        op = by_rank[rank]
        if op.collective is not first.collective:
            kinds = f"{first.collective} on rank {first_rank} and {op.collective} on rank {rank}"
            yield "kinds", f"{_name(first)} is {kinds}"
            return
        if op.dtype != first.dtype:
            dtypes = f"{first.dtype} on rank {first_rank} and {op.dtype} on rank {rank}"
            yield "dtypes", f"{_name(first)} has dtype {dtypes}"
        if first.collective in _EQUAL_BYTES and op.bytes != first.bytes:
            sizes = f"{first.bytes} bytes on rank {first_rank} and {op.bytes} on rank {rank}"
            yield "unequal bytes", f"{_name(first)} moves {sizes}"
    if first.collective is Collective.ALL_TO_ALL:
        # Without splits a rank sends equal shares, so all ranks must agree on one size.
        uneven = [r for r in members if by_rank[r].splits is not None]
        even = [r for r in members if by_rank[r].splits is None]
        if uneven and even:
            yield "splits on some ranks", f"{_name(first)} has splits on rank {uneven[0]} but none on rank {even[0]}"
        elif even and len({by_rank[r].bytes for r in even}) > 1:
            yield "unequal bytes", f"{_name(first)} is an even all_to_all, but its bytes differ between ranks"


def _name(op: Op) -> str:
    return f"step {op.step} op {op.id} {op.name!r}"
