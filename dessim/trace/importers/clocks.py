"""Clocks of the ranks of a job, and how long its steps took by them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from dessim.trace.schema import Collective, Op

# No member of these can be done before the last has begun; of others (broadcast, send) it can.
_TOGETHER = frozenset(
    {Collective.ALL_REDUCE, Collective.REDUCE_SCATTER, Collective.ALL_GATHER, Collective.ALL_TO_ALL, Collective.BARRIER}
)
CLOCK_SLACK_US = 5.0  # by which clocks of the GPUs of one host were seen to differ


def clock_offsets(ops: Sequence[Sequence[Op]], lacking: list[str]) -> tuple[float, ...]:
    """What to add to each rank's clock: nothing while no rank ends a collective before the last has begun it.

    Else clocks differ, and the ends of a collective, which come close after each other, are made to agree.
    """
    met: dict[tuple[int, str, str], dict[int, Op]] = defaultdict(dict)
    for rank, mine in enumerate(ops):
        for op in mine:
            if op.collective in _TOGETHER and op.group is not None:
                met[op.step, op.group, op.name][rank] = op
    late, differences = 0.0, defaultdict(list)
    for by_rank in met.values():
        last = max(op.start_us for op in by_rank.values())
        middle = median(op.end_us for op in by_rank.values())
        for rank, op in by_rank.items():
            late = max(late, last - op.end_us)
            differences[rank].append(middle - op.end_us)
    if late <= CLOCK_SLACK_US:
        return (0.0,) * len(ops)
    lacking.append(f"clocks differ by up to {late:.0f} us: aligned by when collectives ended")
    return tuple(median(differences[rank]) if rank in differences else 0.0 for rank in range(len(ops)))


def step_us(ops: Sequence[Sequence[Op]], offsets: Sequence[float], step: int) -> float:
    """From when the last rank has begun a step to when the last is done, as replays count it."""
    spans = [
        [(op.start_us + o, op.end_us + o) for op in mine if op.step == step]
        for mine, o in zip(ops, offsets, strict=True)
    ]
    begun = [span for span in spans if span]
    if not begun:
        return 0.0
    return max(end for span in begun for _, end in span) - max(min(s for s, _ in span) for span in begun)
