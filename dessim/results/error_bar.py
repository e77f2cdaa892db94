"""80 % intervals of simulated times, from the spread of what they are made of.

A step is as long as its critical path, so to first order a relative error of an op changes the step by the op's share
of the path. Errors of one kind (an op, its band of sizes, inside a server or between servers; compute) are the same for
all ops of that kind and add up; kinds are independent. With sigma_k the spread of kind k and a_k its share of the path,
the logarithm of the step has a standard deviation of sqrt(sum (a_k sigma_k)^2).

Left out: that another path may become critical, and errors of the topology file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dessim.cluster.spread import Z80
from dessim.results.critical_path import Segment, Window, path_segments
from dessim.results.rows import Row
from dessim.sim.core.recorder import Record

Known = tuple[str, float] | None
"""A kind of part of a step, and its spread; None: not known."""
SpreadOf = Callable[[Segment], Known]
_Part = TypeVar("_Part")


@dataclass(frozen=True, slots=True)
class ErrorBar:
    """The 80 % interval of a time. `causes` are the standard deviations that each kind adds to its logarithm."""

    causes: Mapping[str, float]

    @property
    def sigma(self) -> float:
        """The standard deviation of the time's logarithm."""
        return math.hypot(*self.causes.values())

    @property
    def relative(self) -> float:
        """How much longer than predicted the upper end of the interval is, as a share."""
        return math.expm1(Z80 * self.sigma)

    @property
    def mostly(self) -> str:
        """The kind that contributes most; empty if nothing does."""
        return max(self.causes, key=lambda cause: self.causes[cause], default="")

    def interval(self, seconds: float) -> tuple[float, float]:
        """The ends of the interval of a predicted time [s]."""
        factor = math.exp(Z80 * self.sigma)
        return seconds / factor, seconds * factor

    def to_json(self, seconds: float) -> dict[str, Any]:
        """The `interval` object of a result: the 80 % interval of a predicted time [s], and what contributes to it."""
        low, high = self.interval(seconds)
        return {"low_s": low, "high_s": high, "mostly": self.mostly, "causes": dict(self.causes)}


def error_bar(record: Record, windows: Mapping[int, Window], spread_of: SpreadOf) -> ErrorBar | None:
    """The error bar of the mean step of a record; None if the spread of a part of its critical path is not known.

    `windows` are the start and end [s] of each step.
    """
    return error_bar_of(((segment, segment.seconds) for segment in path_segments(record, windows)), spread_of)


def error_bar_of(parts: Iterable[tuple[_Part, float]], spread_of: Callable[[_Part], Known]) -> ErrorBar | None:
    """The error bar of a sum of parts and their seconds; None if the spread of a part is not known."""
    causes: dict[str, float] = {}
    total = 0.0
    for part, seconds in parts:
        found = spread_of(part)
        if found is None:
            return None
        cause, spread = found
        causes[cause] = causes.get(cause, 0.0) + spread * seconds
        total += seconds
    return ErrorBar({cause: seconds / total for cause, seconds in causes.items()})


def is_tie(best: Row, other: Row) -> bool:
    """Whether the lead of a projected row over another may be chance: it is within the 80 % interval of their ratio.

    What both rows have in common cancels. Rows without an interval never tie.
    """
    intervals = best.get("interval"), other.get("interval")
    if not all(intervals):
        return False
    a, b = (interval["causes"] for interval in intervals if interval)
    sigma = math.hypot(*(a.get(cause, 0.0) - b.get(cause, 0.0) for cause in dict.fromkeys([*a, *b])))
    return abs(math.log(best["samples_per_s"] / other["samples_per_s"])) < Z80 * sigma


def describe_intervals(rows: Iterable[Row]) -> str:
    """A sentence that says what an interval is and what widens it most; empty where no row has one."""
    mostly: dict[str, int] = {}
    for row in rows:
        if row.get("interval"):
            cause = row["interval"]["mostly"]
            mostly[cause] = mostly.get(cause, 0) + 1
    causes = ", ".join(sorted(mostly, key=lambda cause: -mostly[cause])[:3])
    return f"error bar: an 80 % interval; mostly: {causes}" if mostly else ""
