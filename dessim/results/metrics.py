"""Where the time of a step goes: compute, exposed communication and idle time, measured on the record of a run.

A rank computes while a compute op runs; its communication is exposed while only a collective runs, which includes
waiting for a late member; otherwise it is idle. Values are means over ranks and steps, in seconds per step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from dessim.results.critical_path import PathOp, critical_path
from dessim.sim.core.bounds import LATE
from dessim.sim.core.counters import Load
from dessim.sim.core.recorder import Record, Span
from dessim.trace.schema import Collective, Kind

_NOISE = 1e-12  # relative to a step; sums of its parts differ by less
_JSON_INTERVALS = 100  # of utilisation over time


@dataclass(frozen=True, slots=True)
class OpCost:
    """The cost of one communication op, per step.

    `bytes` is S as nccl-tests counts it, `time_s` the time it moved data, `exposed_s` the time a rank waited for it
    without computing. `bytes_by_link` are the bytes that each link class carried for it, all ranks together. `bound_by`
    is what bound most of its time; a late rank is charged with the time that the others wait for it. Collectives that
    run side by side each count their whole wait, so the sum of `exposed_s` over ops may exceed that of the step.
    """

    name: str
    collective: str
    algorithm: str
    bytes: float
    time_s: float
    exposed_s: float
    bytes_by_link: dict[str, float]
    bound_by: str

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The parts of a step. Both the three times and the ops of the critical path add up to `step_time_s`.

    `load` is the use of links over the whole run, not over one step.
    """

    compute_s: float
    exposed_comm_s: float
    idle_s: float
    comm_by_op: tuple[OpCost, ...]
    bytes_by_link: dict[str, float]
    critical_path: tuple[PathOp, ...]
    load: Load

    @property
    def bound_by(self) -> str:
        """The bound of most of the critical path."""
        by_bound: dict[str, float] = {}
        for op in self.critical_path:
            for bound, seconds in op.parts.items():
                by_bound[bound] = by_bound.get(bound, 0.0) + seconds
        return max(by_bound, key=lambda bound: by_bound[bound], default="compute")

    @property
    def step_time_s(self) -> float:
        return self.compute_s + self.exposed_comm_s + self.idle_s

    def lasting(self, seconds: float) -> Breakdown:
        """The same parts of a step of `seconds`, in proportion."""
        factor = seconds / self.step_time_s
        return replace(
            self,
            compute_s=factor * self.compute_s,
            exposed_comm_s=factor * self.exposed_comm_s,
            idle_s=factor * self.idle_s,
            comm_by_op=tuple(
                replace(op, time_s=factor * op.time_s, exposed_s=factor * op.exposed_s) for op in self.comm_by_op
            ),
            critical_path=tuple(op.times(factor) for op in self.critical_path),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        return {
            "step_time_s": self.step_time_s,
            "compute_s": self.compute_s,
            "exposed_comm_s": self.exposed_comm_s,
            "idle_s": self.idle_s,
            "bound_by": self.bound_by,
            "comm_by_op": [cost.to_json() for cost in self.comm_by_op],
            "bytes_by_link": self.bytes_by_link,
            "critical_path": [op.to_json() for op in self.critical_path],
            "utilisation": _utilisation(self.load),
        }


def breakdown(record: Record, step: int | None = None) -> Breakdown:
    """The breakdown of a recorded run: the mean of its steps, or one `step`."""
    all_windows = step_windows(record)
    windows = all_windows if step is None else {step: all_windows[step]}
    n_steps = max(len(windows), 1)
    spans_of = _by_class_and_step(record)
    compute = 0.0
    exposed = 0.0
    by_op: dict[str, list[tuple[Span, float, float]]] = {}
    for rank_class, ranks in enumerate(record.classes):
        weight = len(ranks) / record.n_ranks
        for step, window in windows.items():
            spans = spans_of.get((rank_class, step), [])
            busy = _union(((s.start, s.end) for s in spans if s.kind is Kind.COMPUTE), window)
            either = _union(((s.start, s.end) for s in spans), window)
            compute += weight * _length(busy)
            exposed += weight * (_length(either) - _length(busy))
            for span in spans:
                if span.collective is not None:
                    # An early rank may wait since before the step, which is not part of the step.
                    start = max(span.start, window[0])
                    end = min(span.end, window[1])
                    alone = max(end - start, 0.0) - _overlap(busy, start, end)
                    by_op.setdefault(span.name, []).append((span, weight, alone))
    total = sum(end - start for start, end in windows.values())
    return Breakdown(
        compute_s=compute / n_steps,
        exposed_comm_s=exposed / n_steps,
        idle_s=_without_noise(total - compute - exposed, total) / n_steps,
        comm_by_op=tuple(_cost(name, entries, n_steps) for name, entries in by_op.items()),
        bytes_by_link={
            kind: value / max(len(all_windows), 1) for kind, value in record.bytes_by_kind.items() if value > 0
        },
        critical_path=critical_path(record, windows),
        load=record.load,
    )


def step_times(record: Record) -> list[float]:
    """The time of each step [s], in order."""
    return [end - start for start, end in step_windows(record).values()]


def step_windows(record: Record) -> dict[int, tuple[float, float]]:
    """Start and end [s] of each step: from the moment the last rank starts it until the last rank finishes it."""
    starts: dict[int, dict[int, float]] = {}
    ends: dict[int, float] = {}
    for span in _ops(record):
        of_class = starts.setdefault(span.step, {})
        of_class[span.rank_class] = min(of_class.get(span.rank_class, span.start), span.start)
        ends[span.step] = max(ends.get(span.step, span.end), span.end)
    return {step: (max(starts[step].values()), ends[step]) for step in sorted(starts)}


def _ops(record: Record) -> list[Span]:
    """All spans except barriers, which are not part of a step."""
    return [span for span in record.spans if span.collective is not Collective.BARRIER]


def _by_class_and_step(record: Record) -> dict[tuple[int, int], list[Span]]:
    spans: dict[tuple[int, int], list[Span]] = {}
    for span in _ops(record):
        spans.setdefault((span.rank_class, span.step), []).append(span)
    return spans


def _cost(name: str, entries: list[tuple[Span, float, float]], n_steps: int) -> OpCost:
    first = entries[0][0]
    bound: dict[str, float] = {}
    carried: dict[str, float] = {}
    collectives: dict[tuple[str | None, int], Span] = {}  # one member of each
    for span, weight, _ in entries:
        for part, seconds in {**span.parts, LATE: span.moving_since - span.start}.items():
            bound[part] = bound.get(part, 0.0) + weight * seconds
        collectives[span.group, span.step] = span  # `carried` is the same for every member
    for span in collectives.values():
        for kind, size in span.carried.items():
            carried[kind] = carried.get(kind, 0.0) + size / n_steps
    return OpCost(
        name=name,
        collective=str(first.collective),
        algorithm=first.algorithm or "",
        bytes=sum(weight * span.size for span, weight, _ in entries) / n_steps,
        time_s=sum(weight * (span.end - span.moving_since) for span, weight, _ in entries) / n_steps,
        exposed_s=sum(weight * alone for _, weight, alone in entries) / n_steps,
        bytes_by_link=carried,
        bound_by=max(bound, key=lambda kind: bound[kind]),
    )


def _utilisation(load: Load) -> dict[str, Any]:
    """The share of each link class's capacity in use: its mean, its peak, and its course over a few intervals."""
    coarse = load.within(_JSON_INTERVALS)
    return {
        "time_s": coarse.time.tolist(),
        "share": {kind: coarse.share(kind).tolist() for kind in coarse.rate},
        "mean_share": {kind: load.mean(kind) for kind in load.rate},
        "peak_share": {kind: float(load.share(kind).max()) for kind in load.rate},
    }


def _union(intervals: Iterable[tuple[float, float]], window: tuple[float, float]) -> list[tuple[float, float]]:
    """The parts of `window` that the intervals cover, in order and disjoint."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted((max(a, window[0]), min(b, window[1])) for a, b in intervals):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _length(merged: list[tuple[float, float]]) -> float:
    """The total length of disjoint intervals."""
    return sum(end - start for start, end in merged)


def _overlap(merged: list[tuple[float, float]], start: float, end: float) -> float:
    """The length of the part of `start` to `end` that disjoint intervals cover."""
    return sum(max(min(b, end) - max(a, start), 0.0) for a, b in merged)


def _without_noise(seconds: float, total: float) -> float:
    """`seconds`, or 0 where it is negative or a rounding error of `total`."""
    return seconds if seconds > _NOISE * total else 0.0
