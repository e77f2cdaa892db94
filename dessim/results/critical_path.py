"""The critical path: the chain of ops and waits that determines the time of a step.

It is found backwards, from the op that ended last. An op could not start before the latest of its predecessors ended: a
dependency, or the op before it on its stream. A collective could not move data before its last member arrived, so the
path continues on that member's rank. A gap between two ops of the chain is the host's: launches, and work that was not
recorded. The segments of the path follow each other without gaps, so their lengths add up to the step time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dessim.sim.core.recorder import Record, Span
from dessim.trace.schema import Kind

HOST = "host"
_SHORT = 0.01  # share of a step; shorter ops are folded into one row of a table
Window = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the critical path, from `start` to `end` [s]: an op, or the wait before it (`is_wait`)."""

    span: Span
    start: float
    end: float
    is_wait: bool = False

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(slots=True)
class PathOp:
    """An op on the critical path, or the wait before it (`what` is then `host`).

    `parts` are its seconds per bottleneck in a step, mean over steps. `rank` is the rank of its longest segment, and
    `size` [bytes] the largest size of a collective over `group`.
    """

    name: str
    what: str
    rank: int = 0
    group: str | None = None
    size: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def time_s(self) -> float:
        return sum(self.parts.values())

    @property
    def bound_by(self) -> str:
        """The bound of most of its time."""
        return max(self.parts, key=lambda bound: self.parts[bound])

    def times(self, count: float) -> PathOp:
        """The op with `count` times its seconds, as in `count` equal steps."""
        return replace(self, parts={bound: count * seconds for bound, seconds in self.parts.items()})

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
    """The mean of the critical paths of all steps; an op is listed where it first occurs.

    `windows` are the start and end [s] of each step. The times of all ops add up to the mean step time.
    """
    ops: dict[tuple[str, str], PathOp] = {}
    longest: dict[tuple[str, str], float] = {}
    predecessors = _Predecessors(record)
    for step, window in windows.items():
        for segment in predecessors.path(step, window):
            span = segment.span
            what = HOST if segment.is_wait else str(span.collective or span.kind)
            key = span.name, what
            op = ops.setdefault(key, PathOp(span.name, what, group=span.group))
            op.size = max(op.size, span.task.largest_size)
            for bound, share in _shares(segment):
                op.parts[bound] = op.parts.get(bound, 0.0) + share * segment.seconds / len(windows)
            if segment.seconds > longest.get(key, -1.0):
                longest[key] = segment.seconds
                op.rank = int(record.classes[span.rank_class][0])
    return tuple(op for op in ops.values() if op.parts)


class _Predecessors:
    """The spans that each span of a record waited for."""

    def __init__(self, record: Record) -> None:
        self._of_task = {(s.rank_class, s.index): s for s in record.spans}
        self._on_stream: dict[tuple[int, int], Span] = {}  # the span before, by rank class and index
        self._last_member: dict[tuple[str | None, int, str], Span] = {}  # of a collective: group, step, name
        self._last_of_step: dict[int, Span] = {}
        latest: dict[tuple[int, str], Span] = {}
        for span in sorted(record.spans, key=lambda s: (s.start, s.end, s.index)):
            stream = span.rank_class, span.stream
            if stream in latest:
                self._on_stream[span.rank_class, span.index] = latest[stream]
            latest[stream] = span
            if span.collective is not None:
                collective = span.group, span.step, span.name
                last = self._last_member.get(collective)
                if last is None or span.start > last.start:
                    self._last_member[collective] = span
            if span.step not in self._last_of_step or span.end > self._last_of_step[span.step].end:
                self._last_of_step[span.step] = span

    def path(self, step: int, window: Window) -> list[Segment]:
        """The critical path of a step within `window` [s], in order of time."""
        segments: list[Segment] = []
        span: Span | None = self._last_of_step[step]
        begin, now = window  # `now` moves backwards
        while span is not None and now > begin:
            if span.kind is Kind.COLLECTIVE:
                _append(segments, Segment(span, max(span.moving, begin), now))
                now = span.moving
                # Before data moved, every member waited for the last one.
                span = self._last_member[span.group, span.step, span.name]
            else:
                _append(segments, Segment(span, max(span.start, begin), now))
                now = span.start
            before = max(self._before(span), key=lambda s: s.end, default=None)
            until = begin if before is None else max(before.end, begin)
            _append(segments, Segment(span, until, now, is_wait=True))
            now = min(now, until)
            span = before
        return segments[::-1]

    def _before(self, span: Span) -> Iterator[Span]:
        for dep in span.deps:
            yield self._of_task[span.rank_class, dep]
        before = self._on_stream.get((span.rank_class, span.index))
        if before is not None:
            yield before


def _append(segments: list[Segment], segment: Segment) -> None:
    """Append a segment unless it is empty."""
    if segment.end > segment.start:
        segments.append(segment)


def _shares(segment: Segment) -> Sequence[tuple[str, float]]:
    """The bounds of a segment, and the share of its time that each bound had."""
    if segment.is_wait:
        return [(HOST, 1.0)]
    parts = segment.span.parts
    total = sum(parts.values())
    return [(bound, seconds / total) for bound, seconds in parts.items() if seconds > 0]


def fold_short_ops(path: Sequence[Mapping[str, Any]], step_time_s: float) -> list[Mapping[str, Any]]:
    """The rows of a critical path (JSON), with all ops below 1 % of the step folded into a last row, "other (n ops)".

    A single short op keeps its row.
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
