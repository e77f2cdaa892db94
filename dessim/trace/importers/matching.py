"""Which calls of the ranks of a job are the same collective, and what they exchanged."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dessim.errors import TraceError
from dessim.trace.importers.kineto_calls import Call
from dessim.trace.schema import Collective, Kind, Op

Made = tuple[Op, Call | None]  # an op, and the call it was made of


def match(
    paths: Sequence[Path],
    made: list[list[Made]],
    groups: Mapping[str, tuple[int, ...]],
    lacking: list[str],
) -> None:
    """Give collectives that are one the same name, and uneven all_to_alls their splits. Raises TraceError."""
    order: dict[tuple[int, str], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, mine in enumerate(made):
        for place, (op, call) in enumerate(mine):
            if call is not None and op.group is not None and op.kind is Kind.COLLECTIVE:
                order[op.step, op.group][number].append(place)
    guessed = 0
    for (step, group), places in sorted(order.items()):
        members = groups[group]
        counts = {rank: len(places.get(rank, ())) for rank in members}
        if len(set(counts.values())) > 1:
            few, many = min(counts, key=lambda r: counts[r]), max(counts, key=lambda r: counts[r])
            what = f"{counts[few]} collectives over {group!r}, but {counts[many]} on rank {many}"
            raise TraceError(paths[few], f"step {step}", what)
        seen: Counter[str] = Counter()
        for turn in range(counts[members[0]]):
            ops = {rank: made[rank][places[rank][turn]] for rank in members}
            kinds = {rank: op.collective for rank, (op, _) in ops.items()}
            first = ops[members[0]][0]
            other = next((rank for rank in members if kinds[rank] is not first.collective), None)
            if other is not None:
                on_first = f"on rank {members[0]} {first.collective}"
                what = f"collective {turn + 1} over {group!r} is {kinds[other]}, {on_first}"
                raise TraceError(paths[other], f"step {step}", what)
            seen[first.name] += 1
            name = f"{first.name}.{seen[first.name]}" + ("" if len(members) == len(made) else f" in {group}")
            splits = _splits(members, ops)
            guessed += splits is not None
            for rank in members:
                op, call = ops[rank]
                own = splits[rank] if splits is not None else op.splits
                made[rank][places[rank][turn]] = (replace(op, name=name, splits=own), call)
    if guessed:
        lacking.append(
            f"splits of {guessed} uneven all_to_alls are not recorded: derived from what each rank sends and receives, "
            "as if each sent everybody the same share"
        )


def _splits(members: Sequence[int], ops: Mapping[int, Made]) -> dict[int, tuple[int, ...]] | None:
    """Derived splits in bytes; None where they are recorded on every rank, or where every pair moves the same."""
    calls = [ops[rank][1] for rank in members]
    if ops[members[0]][0].collective is not Collective.ALL_TO_ALL or any(call is None for call in calls):
        return None
    known = [call for call in calls if call is not None]
    if all(call.splits is not None for call in known):
        return None
    sent, got = (
        [call.inputs for call in known],
        [call.inputs if call.outputs is None else call.outputs for call in known],
    )
    if len(set(sent)) == len(set(got)) == 1 and sent[0] == got[0] and sent[0] % len(members) == 0:
        return {rank: () for rank in members} if any(c.splits for c in known) else None
    rows = likely_splits(sent, got)
    return {r: tuple(n * c.width for n in row) for r, c, row in zip(members, known, rows, strict=True)}


def likely_splits(sent: Sequence[int], received: Sequence[int]) -> list[list[int]]:
    """What each rank [n] sent to each [n], from what each sent and received in all: whole numbers with those sums.

    Shares of a sender are those of the receivers' sums, the most even choice there is (it has the largest entropy);
    what rounding leaves goes to who still lacks most. Where sums disagree (a profile was cut), senders are believed.
    """
    total = sum(received)
    left = list(received)
    rows = []
    for number, mine in enumerate(sent):
        if total == 0:
            row = [mine // len(received) + (place < mine % len(received)) for place in range(len(received))]
        elif number == len(sent) - 1 and sum(left) == mine and min(left) >= 0:
            row = list(left)
        else:
            row = [mine * want // total for want in received]
            for place in sorted(range(len(row)), key=lambda p: row[p] - left[p])[: mine - sum(row)]:
                row[place] += 1
        rows.append(row)
        left = [have - gone for have, gone in zip(left, row, strict=True)]
    return rows
