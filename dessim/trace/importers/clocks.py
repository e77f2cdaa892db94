"""Align the clocks of a job's ranks, and measure its steps on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from dessim.trace.schema import Collective, Op

# In these no rank ends before the last one has begun; in others (broadcast, send) a rank may.
_SYNCHRONIZING = frozenset(
    {Collective.ALL_REDUCE, Collective.REDUCE_SCATTER, Collective.ALL_GATHER, Collective.ALL_TO_ALL, Collective.BARRIER}
)
CLOCK_SLACK_US = 5.0  # observed difference between the clocks of the GPUs of one host


def clock_offsets(ops: Sequence[Sequence[Op]], lacking: list[str]) -> tuple[float, ...]:
    """The microseconds to add to each rank's clock; `ops[r]` are rank r's.

    Clocks differ if some rank ends a collective before the last rank begins it. The ends of collectives, which are
    close to each other, are then made to agree, and a sentence is appended to `lacking`. Otherwise offsets are zero.
    """
    collectives: dict[tuple[int, str, str], dict[int, Op]] = defaultdict(dict)
    for rank, rank_ops in enumerate(ops):
        for op in rank_ops:
            if op.collective in _SYNCHRONIZING and op.group is not None:
                collectives[op.step, op.group, op.name][rank] = op
    largest_us = 0.0
    differences = defaultdict(list)
    for by_rank in collectives.values():
        last_start = max(op.start_us for op in by_rank.values())
        median_end = median(op.end_us for op in by_rank.values())
        for rank, op in by_rank.items():
            largest_us = max(largest_us, last_start - op.end_us)
            differences[rank].append(median_end - op.end_us)
    if largest_us <= CLOCK_SLACK_US:
        return (0.0,) * len(ops)
    lacking.append(f"clocks differ by up to {largest_us:.0f} us: aligned by the ends of collectives")
    return tuple(median(differences[rank]) if rank in differences else 0.0 for rank in range(len(ops)))


def step_us(ops: Sequence[Sequence[Op]], offsets: Sequence[float], step: int) -> float:
    """Microseconds from the last rank's start of a step to the last rank's end, as in replays."""
    starts = []
    ends = []
    for rank_ops, offset in zip(ops, offsets, strict=True):
        of_step = [op for op in rank_ops if op.step == step]
        if of_step:
            starts.append(min(op.start_us + offset for op in of_step))
            ends.append(max(op.end_us + offset for op in of_step))
    return max(ends) - max(starts) if ends else 0.0
