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
from dessim.results.step_change import StepDifference, TimedStep, seconds_of
from dessim.sweep.axes import Plain
from dessim.sweep.journal import MISFIT, OK
from dessim.sweep.tables import RESULTS_CSV, is_ok, read_results

_Key = tuple[Plain, ...]
_TOP = ("model", "cluster")  # axes that a file of `dessim project` states once
_EACH = ("strategy", "gpus", "batch")


@dataclass(frozen=True, slots=True)
class _Case:
    """A case of a run: the values of all axes, its status, and its step if it has times."""

    axes: Mapping[str, Plain]
    status: str
    step: TimedStep | None


@dataclass(frozen=True, slots=True)
class Difference:
    """A case in both runs, and its steps."""

    case: Mapping[str, Plain]
    step: StepDifference

    def to_json(self) -> dict[str, Any]:
        """Plain values, units in the keys; `change` is a share, and `by_op_s` are seconds that ops gained (+)."""
        return {
            "case": dict(self.case),
            "before_s": self.step.before.time_s,
            "after_s": self.step.now.time_s,
            "change": self.step.share,
            "mostly": self.step.mostly,
            "bound_by_before": self.step.before.bound_by,
            "bound_by_after": self.step.now.bound_by,
            "by_op_s": self.step.by_op_s,
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
    a = _read(before)
    b = _read(after)
    changed = _changed(a, b)
    axes = [axis for axis in a[0].axes if axis in b[0].axes and axis not in changed]
    of_a = _by_axes(before, a, axes)
    of_b = _by_axes(after, b, axes)
    slower: list[Difference] = []
    faster: list[Difference] = []
    fits = []
    same = 0
    for key, one in of_a.items():
        other = of_b.get(key)
        if other is None:
            continue
        case = dict(zip(axes, key, strict=True))
        if one.step is None or other.step is None:
            if one.status != other.status:
                fits.append((case, one.status, other.status))
            else:
                same += 1
            continue
        step = StepDifference(one.step, other.step)
        if abs(step.share) <= tolerance:
            same += 1
        else:
            (slower if step.share > 0 else faster).append(Difference(case, step))
    if not any(key in of_b for key in of_a):
        raise UsageError(f"{before} and {after} have no case in common; their axes: {', '.join(axes)}")
    return Comparison(
        slower=sorted(slower, key=lambda difference: -difference.step.share),
        faster=sorted(faster, key=lambda difference: difference.step.share),
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
    by_key: dict[_Key, _Case] = {}
    for case in cases:
        key = tuple(case.axes.get(axis, "") for axis in axes)
        if key in by_key:
            text = ", ".join(f"{axis} = {value}" for axis, value in zip(axes, key, strict=True))
            raise UsageError(f"{path}: several cases have {text}; the other run lacks the axis in which they differ")
        by_key[key] = case
    return by_key


def _read(path: Path) -> list[_Case]:
    cases = _swept(path) if path.is_dir() else _projected(path)
    if not cases:
        raise FileError(path, "", "has no cases")
    return cases


def _swept(folder: Path) -> list[_Case]:
    """The rows of the results of a sweep."""
    axes, rows, ops = read_results(folder)
    cases = []
    for row in rows:
        at = {axis: row.get(axis, "") for axis in axes}
        try:
            step = None
            if is_ok(row):
                seconds = seconds_of(row["step_time_s"], least=1e-15)
                step = TimedStep(seconds, str(row.get("bound_by", "")), ops.get(tuple(at.values()), {}))
        except (KeyError, TypeError):
            raise FileError(folder / RESULTS_CSV, "", "is damaged; run the sweep again") from None
        cases.append(_Case(at, str(row["status"]), step))
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
            status = MISFIT if row.get("does_not_fit") else OK
            step = TimedStep.from_json(row) if status == OK else None
            cases.append(_Case({**top, **{axis: row[axis] for axis in _EACH}}, status, step))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise wrong from None
    return cases
