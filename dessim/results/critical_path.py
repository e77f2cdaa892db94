"""The critical path: the chain of ops and waits that made a step as long as it was.

Found backward. The op that ended last could start when the latest of what it waited for was over: a dependency, or the
op before it on its stream. A collective began to move data when its last member had come, so the path goes on with what
that member did before. What is left between two ops of the chain is the host's: launches, and work nobody recorded. The
pieces follow each other without a gap, so that together they are as long as the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dessim.sim.core.recorder import Record, Span
from dessim.trace.schema import Kind

HOST = "host"
_SHORT = 0.01  # of a step: shorter ops share a row in tables
Window = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Piece:
    """From `start` to `end` [s] a step could not have been faster because of an op, or of the wait before it."""

    span: Span
    start: float
    end: float
    waits: bool = False


@dataclass(slots=True)
class PathOp:
    """An op on the critical path, or the wait before it (`what` is then `host`): seconds a step, mean over steps.

    `parts` are these seconds by what bound them; `rank` is one that was on the path, the one that was longest.
    """

    name: str
    what: str
    rank: int = 0
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def time_s(self) -> float:
        return sum(self.parts.values())

    @property
    def bound_by(self) -> str:
        return max(self.parts, key=lambda bound: self.parts[bound])

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        return {
            "name": self.name,
            "what": self.what,
            "rank": self.rank,
            "time_s": self.time_s,
            "time_by_bound_s": dict(self.parts),
            "bound_by": self.bound_by,
        }


def critical_path(record: Record, windows: dict[int, Window]) -> tuple[PathOp, ...]:
    """The critical paths of all steps as one, each op where it first comes. `windows` are start and end of each step.

    The sum over ops is the mean step time.
    """
    found: dict[tuple[str, str], PathOp] = {}
    longest: dict[tuple[str, str], float] = {}
    chains = _Chains(record)
    for step, window in windows.items():
        for piece in chains.path(step, window):
            span, seconds = piece.span, piece.end - piece.start
            what = HOST if piece.waits else str(span.collective or span.kind)
            op = found.setdefault((span.name, what), PathOp(span.name, what))
            for bound, share in _shares(piece):
                op.parts[bound] = op.parts.get(bound, 0.0) + share * seconds / len(windows)
            if seconds > longest.get((span.name, what), -1.0):
                longest[span.name, what] = seconds
                op.rank = int(record.classes[span.rank_class][0])
    return tuple(op for op in found.values() if op.parts)


class _Chains:
    """What each span of a record waited for."""

    def __init__(self, record: Record) -> None:
        self._of_task = {(s.rank_class, s.index): s for s in record.spans}
        self._before: dict[tuple[int, int], Span] = {}  # on the same stream
        last: dict[tuple[int, str], Span] = {}
        self._last_member: dict[tuple[str | None, int, str], Span] = {}
        self._last_of: dict[int, Span] = {}
        for span in sorted(record.spans, key=lambda s: (s.start, s.end, s.index)):
            stream = span.rank_class, span.stream
            if stream in last:
                self._before[span.rank_class, span.index] = last[stream]
            last[stream] = span
            if span.collective is not None:
                meeting = span.group, span.step, span.name
                if meeting not in self._last_member or span.start > self._last_member[meeting].start:
                    self._last_member[meeting] = span
            if span.step not in self._last_of or span.end > self._last_of[span.step].end:
                self._last_of[span.step] = span

    def path(self, step: int, window: Window) -> list[Piece]:
        """The pieces of a step, in order of time."""
        pieces: list[Piece] = []
        span: Span | None = self._last_of[step]
        begin, at = window
        while span is not None and at > begin:
            if span.kind is Kind.COLLECTIVE:
                _add(pieces, Piece(span, max(span.moving, begin), at))
                at = span.moving
                span = self._last_member[span.group, span.step, span.name]
            else:
                _add(pieces, Piece(span, max(span.start, begin), at))
                at = span.start
            before = max(self._waited_for(span), key=lambda s: s.end, default=None)
            until = begin if before is None else max(before.end, begin)
            _add(pieces, Piece(span, until, at, waits=True))
            at, span = min(at, until), before
        return pieces[::-1]

    def _waited_for(self, span: Span) -> Iterator[Span]:
        for dep in span.deps:
            yield self._of_task[span.rank_class, dep]
        before = self._before.get((span.rank_class, span.index))
        if before is not None:
            yield before


def _add(pieces: list[Piece], piece: Piece) -> None:
    if piece.end > piece.start:
        pieces.append(piece)


def _shares(piece: Piece) -> Sequence[tuple[str, float]]:
    """What bound a piece, and the share of its time that each did."""
    if piece.waits:
        return [(HOST, 1.0)]
    parts = piece.span.parts
    total = sum(parts.values())
    return [(bound, seconds / total) for bound, seconds in parts.items() if seconds > 0]


def fold_short_ops(path: Sequence[Mapping[str, Any]], step_time_s: float) -> list[Mapping[str, Any]]:
    """A critical path in JSON, without its ops below 1 % of the step: the last row is their sum, "other (n ops)".

    A single short op stays a row.
    """
    short = [op for op in path if op["time_s"] < _SHORT * step_time_s]
    if len(short) < 2:
        return list(path)
    by_bound: dict[str, float] = {}
    for op in short:
        for bound, seconds in op["time_by_bound_s"].items():
            by_bound[bound] = by_bound.get(bound, 0.0) + seconds
    other = {
        "name": f"other ({len(short):,} ops)",
        "what": "",
        "time_s": sum(op["time_s"] for op in short),
        "bound_by": max(by_bound, key=lambda bound: by_bound[bound]),
    }
    return [op for op in path if op["time_s"] >= _SHORT * step_time_s] + [other]
