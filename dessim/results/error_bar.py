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
from typing import Any

from dessim.cluster.spread import Z80, interval
from dessim.results.critical_path import PathOp
from dessim.results.rows import Row
from dessim.units import format_time

_DIGITS = 9
SpreadOf = Callable[[PathOp, str], tuple[str, float] | None]
"""The kind, and the spread, of the seconds that a bound had of an op; None: not known."""


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
        """The kind that contributes most, of equal ones the first on the path; empty if nothing does."""
        # The last bits of sums must not decide between two kinds that contribute equally.
        return max(self.causes, key=lambda cause: round(self.causes[cause], _DIGITS), default="")

    def interval(self, seconds: float) -> tuple[float, float]:
        """The ends of the interval of a predicted time [s]."""
        return interval(seconds, self.sigma)

    def to_json(self, seconds: float) -> dict[str, Any]:
        """The `interval` object of a result: the 80 % interval of a predicted time [s], and what contributes to it."""
        low, high = self.interval(seconds)
        return {"low_s": low, "high_s": high, "mostly": self.mostly, "causes": dict(self.causes)}


def error_bar(path: Iterable[PathOp], spread_of: SpreadOf) -> ErrorBar | None:
    """The error bar of a step with this critical path; None if the spread of a part of it is not known."""
    causes: dict[str, float] = {}
    total = 0.0
    for op in path:
        for bound, seconds in op.parts.items():
            known = spread_of(op, bound)
            if known is None:
                return None
            cause, spread = known
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


def interval_text(interval: Mapping[str, Any] | None) -> str:
    """The ends of the `interval` of a result, such as `1.2 ms to 1.5 ms`; empty for None."""
    return f"{format_time(interval['low_s'])} to {format_time(interval['high_s'])}" if interval else ""


def describe_intervals(rows: Iterable[Row]) -> str:
    """A sentence that says what an interval is and what widens it most; empty where no row has one."""
    mostly: dict[str, int] = {}
    for row in rows:
        if row.get("interval"):
            cause = row["interval"]["mostly"]
            mostly[cause] = mostly.get(cause, 0) + 1
    causes = ", ".join(sorted(mostly, key=lambda cause: -mostly[cause])[:3])
    return f"error bar: an 80 % interval; mostly: {causes}" if mostly else ""
