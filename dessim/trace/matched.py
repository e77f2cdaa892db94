"""Match the ranks' records of one collective, and separate waiting from the transfer.

A rank's record of a collective includes both, because it begins when the rank begins to wait for the slowest one. The
transfer lasts from the last start to the last end over all ranks, on aligned clocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dessim.trace.io import Trace
from dessim.trace.schema import Collective, Kind, Op


@dataclass(frozen=True, slots=True)
class Matched:
    """A collective in one step.

    `ops` are the records of its members by rank. `waiting_us` is how long each rank waited for the last one. Times are
    microseconds on rank 0's clock.
    """

    step: int
    name: str
    collective: Collective
    group: str
    ops: Mapping[int, Op]
    last_start_us: float
    last_end_us: float
    waiting_us: Mapping[int, float]

    @property
    def transfer_us(self) -> float:
        """Microseconds from the last start to the last end."""
        return self.last_end_us - self.last_start_us


def matched_collectives(trace: Trace) -> list[Matched]:
    """The collectives that all members of their group recorded, ordered by step and last start."""
    calls: dict[tuple[int, str, str], dict[int, Op]] = {}
    for rank, ops in enumerate(trace.ranks):
        for op in ops:
            if op.kind is Kind.COLLECTIVE and op.group is not None:
                calls.setdefault((op.step, op.group, op.name), {})[rank] = op
    offset = trace.header.clock_offset_us
    collectives = []
    for (step, group, name), by_rank in calls.items():
        kinds = {op.collective for op in by_rank.values()}
        kind = next(iter(by_rank.values())).collective
        if kind is None or len(kinds) > 1 or set(by_rank) != set(trace.header.groups.get(group, ())):
            continue
        starts = {rank: op.start_us + offset[rank] for rank, op in by_rank.items()}
        last_start = max(starts.values())
        collectives.append(
            Matched(
                step=step,
                name=name,
                collective=kind,
                group=group,
                ops=by_rank,
                last_start_us=last_start,
                last_end_us=max(op.end_us + offset[rank] for rank, op in by_rank.items()),
                waiting_us={rank: last_start - start for rank, start in starts.items()},
            )
        )
    return sorted(collectives, key=lambda matched: (matched.step, matched.last_start_us))
