"""Match the calls of a job's ranks that belong to the same collective, and derive splits that are not recorded."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dessim.errors import TraceError
from dessim.trace.importers.kineto_calls import Call
from dessim.trace.schema import Collective, Kind, Op

OpWithCall = tuple[Op, Call | None]
"""An op, and the call that it was imported from (None: not a collective)."""


def match(
    paths: Sequence[Path],
    ops: list[list[OpWithCall]],
    groups: Mapping[str, tuple[int, ...]],
    lacking: list[str],
) -> None:
    """Give matching collectives the same name, and uneven all_to_alls without recorded splits derived ones.

    `paths[r]` and `ops[r]` are rank r's profile and ops, which are changed in place. Derived splits append a sentence
    to `lacking`. Raises TraceError if the ranks of a group issued different collectives.
    """
    issued: dict[tuple[int, str], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for rank, rank_ops in enumerate(ops):
        for index, (op, call) in enumerate(rank_ops):
            if call is not None and op.group is not None and op.kind is Kind.COLLECTIVE:
                issued[op.step, op.group][rank].append(index)
    n_derived = 0
    for (step, group), indices in sorted(issued.items()):
        members = groups[group]
        suffix = "" if len(members) == len(ops) else f" in {group}"
        counts: Counter[str] = Counter()
        for number in range(_equal_count(paths, step, group, members, indices)):
            calls = {rank: ops[rank][indices[rank][number]] for rank in members}
            first = calls[members[0]][0]
            for rank, (op, _) in calls.items():
                if op.collective is not first.collective:
                    kinds = f"{op.collective}, but {first.collective} on rank {members[0]}"
                    problem = f"collective {number + 1} over {group!r} is {kinds}"
                    raise TraceError(paths[rank], f"step {step}", problem)
            counts[first.name] += 1
            name = f"{first.name}.{counts[first.name]}{suffix}"
            splits = _derived_splits(members, calls)
            n_derived += splits is not None
            for rank, (op, call) in calls.items():
                own_splits = splits[rank] if splits is not None else op.splits
                ops[rank][indices[rank][number]] = (replace(op, name=name, splits=own_splits), call)
    if n_derived:
        lacking.append(
            f"splits of {n_derived} uneven all_to_alls are not recorded: derived from the bytes that each rank sends "
            "and receives, as if all ranks sent a receiver the same share"
        )


def _equal_count(
    paths: Sequence[Path], step: int, group: str, members: Sequence[int], indices: Mapping[int, list[int]]
) -> int:
    """The number of collectives that each member of a group issued in a step. Raises TraceError if numbers differ."""
    counts = {rank: len(indices.get(rank, ())) for rank in members}
    fewest = min(counts, key=lambda rank: counts[rank])
    most = max(counts, key=lambda rank: counts[rank])
    if counts[fewest] != counts[most]:
        problem = f"{counts[fewest]} collectives over {group!r}, but {counts[most]} on rank {most}"
        raise TraceError(paths[fewest], f"step {step}", problem)
    return counts[fewest]


def _derived_splits(members: Sequence[int], ops: Mapping[int, OpWithCall]) -> dict[int, tuple[int, ...]] | None:
    """Splits of an all_to_all in bytes, by rank: derived if some rank did not record them; none if it is even.

    Returns None if recorded splits, or their absence, are to be kept.
    """
    calls = [call for _, call in (ops[rank] for rank in members) if call is not None]
    if ops[members[0]][0].collective is not Collective.ALL_TO_ALL or len(calls) < len(members):
        return None
    if all(call.splits is not None for call in calls):
        return None
    sent = [call.inputs for call in calls]
    received = [call.inputs if call.outputs is None else call.outputs for call in calls]
    if len(set(sent)) == len(set(received)) == 1 and sent[0] == received[0] and sent[0] % len(members) == 0:
        return {rank: () for rank in members} if any(call.splits for call in calls) else None
    rows = likely_splits(sent, received)
    return {r: tuple(n * call.width for n in row) for r, call, row in zip(members, calls, rows, strict=True)}


def likely_splits(sent: Sequence[int], received: Sequence[int]) -> list[list[int]]:
    """The most even whole numbers [n][n] from each rank to each other with the given sums per sender and receiver.

    A sender's shares are proportional to the receivers' sums, the choice with the largest entropy. Remainders of
    rounding go to the receivers that lack most. If the two totals differ, because a profile was cut, the sums per
    sender are kept.
    """
    total = sum(received)
    missing = list(received)
    rows = []
    for sender, size in enumerate(sent):
        if total == 0:
            row = [size // len(received) + (receiver < size % len(received)) for receiver in range(len(received))]
        elif sender == len(sent) - 1 and sum(missing) == size and min(missing) >= 0:
            row = list(missing)
        else:
            row = [size * receives // total for receives in received]
            by_lack = sorted(range(len(row)), key=lambda receiver: row[receiver] - missing[receiver])
            for receiver in by_lack[: size - sum(row)]:
                row[receiver] += 1
        rows.append(row)
        missing = [lacks - gets for lacks, gets in zip(missing, row, strict=True)]
    return rows
