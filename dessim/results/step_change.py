"""A step in two runs: by how much its time changed, in which ops, and what bounds it before and after.

Golden files, `dessim report` and the comparison on a page differ in which steps of two runs they match; what they say
of two steps is found here. Ops are compared by their time on the critical path, because these times add up to the step:
the changes of the ops explain the whole change of the step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from dessim.results.critical_path import HOST

SAME = 1e-9
"""Relative difference below which two steps, or two ops of a step, are the same."""
_DECIMALS = 9  # of a share of the step; changes that agree to them keep the order of the path
Op = TypeVar("Op")


@dataclass(frozen=True, slots=True)
class TimedStep:
    """The time of a step [s], what bounds it, and its seconds on the critical path by op (`op_label`)."""

    time_s: float
    bound_by: str
    by_op_s: Mapping[str, float]

    @classmethod
    def from_json(cls, row: Mapping[str, Any], time_s: str = "step_time_s") -> Self:
        """The step of an object of `--json`, which may be any file. Raises KeyError and TypeError."""
        by_op: dict[str, float] = {}
        for op in row["critical_path"]:
            label = op_label(text_of(op["name"]), text_of(op["what"]))
            by_op[label] = by_op.get(label, 0.0) + seconds_of(op["time_s"])
        return cls(seconds_of(row[time_s], least=1e-15), text_of(row["bound_by"]), by_op)


@dataclass(frozen=True, slots=True)
class StepDifference:
    """The same step in two runs."""

    before: TimedStep
    now: TimedStep

    @property
    def share(self) -> float:
        """The step now over the step before, minus 1."""
        return self.now.time_s / self.before.time_s - 1

    @property
    def is_same(self) -> bool:
        """Whether the times differ by no more than rounding errors."""
        return abs(self.share) <= SAME

    @property
    def by_op_s(self) -> dict[str, float]:
        """The seconds by which each op's part of the critical path grew, the largest change first."""
        return grown(self.before.by_op_s, self.now.by_op_s)

    @property
    def mostly(self) -> str:
        """The op that changed most in the direction of the step; empty if none did."""
        sign = 1 if self.share > 0 else -1
        by_op = self.by_op_s
        most = max(by_op, key=lambda op: round(sign * by_op[op] / self.now.time_s, _DECIMALS), default="")
        return most if sign * by_op.get(most, 0.0) > SAME * self.now.time_s else ""


def op_label(name: str, what: str) -> str:
    """The name of an op on a critical path. The host's wait before an op counts as an op: `pooled (host)`."""
    return f"{name} ({HOST})" if what == HOST else name


def grown(before: Mapping[Op, float], now: Mapping[Op, float]) -> dict[Op, float]:
    """The seconds by which each op grew, the largest change first."""
    change = {op: now.get(op, 0.0) - before.get(op, 0.0) for op in dict.fromkeys([*before, *now])}
    total = max(sum(before.values()), sum(now.values())) or 1.0
    return dict(sorted(change.items(), key=lambda entry: -round(abs(entry[1]) / total, _DECIMALS)))


def text_of(value: Any) -> str:
    """A name in a file of JSON. Raises TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError("a name is no text")
    return value


def seconds_of(value: Any, least: float = 0.0) -> float:
    """A time in a file of JSON, at least `least` and finite. Raises TypeError for anything else."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value < math.inf:
        raise TypeError("a time is no number of seconds")
    return float(value)
