"""A collective over all of its ranks: who waited for whom, and how long the data took.

A rank's record of a collective holds both, for it begins when this rank begins to wait for the slowest. The cost of the
collective itself is from the last start to the last end over the ranks, by aligned clocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dessim.trace.io import Trace
from dessim.trace.schema import Collective, Kind, Op


@dataclass(frozen=True, slots=True)
class Matched:
    """One collective of one step; `ops` are its members' records in order of ranks, times in us on rank 0's clock."""

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
        """From the last start to the last end."""
        return self.last_end_us - self.last_start_us


def matched_collectives(trace: Trace) -> list[Matched]:
    """The collectives of a trace that all members of their group recorded, by step and then by their last start."""
    calls: dict[tuple[int, str, str], dict[int, Op]] = {}
    for rank, ops in enumerate(trace.ranks):
        for op in ops:
            if op.kind is Kind.COLLECTIVE and op.group is not None:
                calls.setdefault((op.step, op.group, op.name), {})[rank] = op
    offset = trace.header.clock_offset_us
    found = []
    for (step, group, name), ops_of in calls.items():
        kinds = {op.collective for op in ops_of.values()}
        kind = next(iter(ops_of.values())).collective
        if kind is None or len(kinds) > 1 or set(ops_of) != set(trace.header.groups.get(group, ())):
            continue
        starts = {rank: op.start_us + offset[rank] for rank, op in ops_of.items()}
        last = max(starts.values())
        end = max(op.end_us + offset[rank] for rank, op in ops_of.items())
        waiting = {rank: last - start for rank, start in starts.items()}
        found.append(Matched(step, name, kind, group, ops_of, last, end, waiting))
    return sorted(found, key=lambda one: (one.step, one.last_start_us))
