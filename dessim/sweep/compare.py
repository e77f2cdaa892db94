"""Two runs compared: which cases became slower or faster, and through which op.

A run is the folder of a sweep, or a file of `dessim project --json`. Cases of two runs belong together if all axes
agree. An axis that has one value in each run, such as the cluster of two projections, may differ: it is what changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dessim.errors import FileError, UsageError
from dessim.files import read_json
from dessim.sweep.axes import Plain
from dessim.sweep.journal import OK
from dessim.sweep.tables import read_results

_Key = tuple[Plain, ...]
_TOP = ("model", "cluster")  # axes that a file of `dessim project` states once
_EACH = ("strategy", "gpus", "batch")


@dataclass(frozen=True, slots=True)
class _Case:
    """A case of a run: the values of all axes, its status, the step [s] if it has one, and seconds by op."""

    axes: Mapping[str, Plain]
    status: str
    step_s: float | None
    ops: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Difference:
    """A case in both runs. `change` is the step after over the step before, minus 1; `by_op` are seconds gained (+)."""

    case: Mapping[str, Plain]
    before_s: float
    after_s: float
    by_op: Mapping[str, float]

    @property
    def change(self) -> float:
        return self.after_s / self.before_s - 1

    @property
    def mostly(self) -> str:
        """The op whose time on the critical path changed most, in the direction of the step."""
        sign = 1 if self.after_s > self.before_s else -1
        return max(self.by_op, key=lambda op: sign * self.by_op[op], default="")

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        return {
            "case": dict(self.case),
            "before_s": self.before_s,
            "after_s": self.after_s,
            "change": self.change,
            "mostly": self.mostly,
            "by_op_s": dict(self.by_op),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs: what is slower and faster beyond a tolerance, largest change first, and how many cases are neither.

    `changed` are the axes that differ as a whole, with both values. `fits` are cases whose status differs.
    """

    slower: Sequence[Difference]
    faster: Sequence[Difference]
    same: int
    fits: Sequence[tuple[Mapping[str, Plain], str, str]]
    only_before: Sequence[Mapping[str, Plain]]
    only_after: Sequence[Mapping[str, Plain]]
    changed: Mapping[str, tuple[Plain, Plain]]

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys."""
        return {
            "slower": [difference.to_json() for difference in self.slower],
            "faster": [difference.to_json() for difference in self.faster],
            "same": self.same,
            "status": [{"case": dict(case), "before": a, "after": b} for case, a, b in self.fits],
            "only_before": [dict(case) for case in self.only_before],
            "only_after": [dict(case) for case in self.only_after],
            "changed": {axis: list(values) for axis, values in self.changed.items()},
        }


def compare(before: Path, after: Path, tolerance: float) -> Comparison:
    """Compare two runs; steps within `tolerance` (a share) count as the same. Raises FileError and UsageError."""
    a, b = _read(before), _read(after)
    changed = _changed(a, b)
    axes = [axis for axis in a[0].axes if axis in b[0].axes and axis not in changed]
    of_a, of_b = _by_axes(before, a, axes), _by_axes(after, b, axes)
    slower: list[Difference] = []
    faster: list[Difference] = []
    fits = []
    same = 0
    for key, one in of_a.items():
        other = of_b.get(key)
        if other is None:
            continue
        case = dict(zip(axes, key, strict=True))
        if one.step_s is None or other.step_s is None:
            if one.status != other.status:
                fits.append((case, one.status, other.status))
            else:
                same += 1
            continue
        found = Difference(case, one.step_s, other.step_s, _by_op(one, other))
        if abs(found.change) <= tolerance:
            same += 1
        else:
            (slower if found.change > 0 else faster).append(found)
    if not any(key in of_b for key in of_a):
        raise UsageError(f"{before} and {after} have no case in common; their axes: {', '.join(axes)}")
    return Comparison(
        slower=sorted(slower, key=lambda difference: -difference.change),
        faster=sorted(faster, key=lambda difference: difference.change),
        same=same,
        fits=fits,
        only_before=[of_a[key].axes for key in of_a if key not in of_b],
        only_after=[of_b[key].axes for key in of_b if key not in of_a],
        changed=changed,
    )


def _changed(a: Sequence[_Case], b: Sequence[_Case]) -> dict[str, tuple[Plain, Plain]]:
    """The axes that have one value in each run, and not the same."""
    changed = {}
    for axis in a[0].axes:
        values = [list(dict.fromkeys(case.axes.get(axis, "") for case in run)) for run in (a, b)]
        if all(len(of_run) == 1 for of_run in values) and axis in b[0].axes and values[0] != values[1]:
            changed[axis] = (values[0][0], values[1][0])
    return changed


def _by_axes(path: Path, cases: Sequence[_Case], axes: Sequence[str]) -> dict[_Key, _Case]:
    found: dict[_Key, _Case] = {}
    for case in cases:
        key = tuple(case.axes.get(axis, "") for axis in axes)
        if key in found:
            text = ", ".join(f"{axis} = {value}" for axis, value in zip(axes, key, strict=True))
            raise UsageError(f"{path}: several cases have {text}; the other run lacks the axis in which they differ")
        found[key] = case
    return found


def _by_op(before: _Case, after: _Case) -> dict[str, float]:
    """The seconds by which each op's part of the critical path grew, largest change first."""
    grown = {op: after.ops.get(op, 0.0) - before.ops.get(op, 0.0) for op in dict.fromkeys([*before.ops, *after.ops])}
    return dict(sorted(grown.items(), key=lambda entry: -abs(entry[1])))


def _read(path: Path) -> list[_Case]:
    if path.is_dir():
        axes, rows, ops = read_results(path)
        cases = []
        for row in rows:
            at = {axis: row.get(axis, "") for axis in axes}
            step = row.get("step_time_s")
            seconds = float(step) if isinstance(step, int | float) else None
            cases.append(_Case(at, str(row["status"]), seconds, ops.get(tuple(at.values()), {})))
    else:
        cases = _projected(path)
    if not cases:
        raise FileError(path, "", "has no cases")
    return cases


def _projected(path: Path) -> list[_Case]:
    """The rows of a file of `dessim project --json`."""
    content = read_json(path)
    wrong = FileError(path, "", "is neither the folder of a sweep nor a file of `dessim project --json`")
    rows = content.get("projection") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise wrong
    cases = []
    try:
        top = {axis: str(content.get(axis, "")) for axis in _TOP}
        for row in rows:
            status = "does_not_fit" if row.get("does_not_fit") else OK
            step = None if row["step_time_s"] is None else float(row["step_time_s"])
            ops: dict[str, float] = {}
            for op in row.get("critical_path", ()):
                ops[str(op["name"])] = ops.get(str(op["name"]), 0.0) + float(op["time_s"])
            cases.append(_Case({**top, **{axis: row[axis] for axis in _EACH}}, status, step, ops))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise wrong from None
    return cases
