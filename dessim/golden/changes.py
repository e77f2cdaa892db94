"""Differences between two answers, step by step and op by op (dessim.results.step_change).

Beside the times, golden files keep for each op what bounds it, its size and its algorithm, from which causes follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dessim.results.labels import bound_label
from dessim.results.step_change import grown
from dessim.units import counted, format_size, format_time

_EXPLAINS = 0.1
"""Share of a step's change below which an op is not named, unless it changed most."""
_MOST_OPS = 4
Values = Mapping[str, Any]
_Path = Mapping[tuple[str, str], Mapping[str, float]]
"""Seconds per bottleneck of each op on a critical path, by the op's name and what it is."""
_BEFORE = {
    "step_time_s": "step_time_before_s",
    "bytes_per_worker": "bytes_per_worker_before",
    "memory_bytes": "memory_bytes_before",
}
"""The values of a step that are compared, and the name of the earlier one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpChange:
    """An op whose time on the critical path changed; `what` is its collective, `compute` or `host`.

    An op that is not on the path has 0 seconds there and is bound by nothing (""). `bytes` is S of a collective.
    `by_bound_s` are the changes of its seconds per bottleneck.
    """

    name: str
    what: str
    time_before_s: float
    time_s: float
    bound_by_before: str
    bound_by: str
    bytes_before: float | None
    bytes: float | None
    algorithm_before: str
    algorithm: str
    by_bound_s: Mapping[str, float]

    @property
    def change_s(self) -> float:
        """Seconds of the step that the op takes more than before."""
        return self.time_s - self.time_before_s

    def __str__(self) -> str:
        name = self.name if self.what in ("compute", self.name) else f"{self.name} ({self.what})"
        now = format_time(self.time_s)
        before = format_time(self.time_before_s)
        if not self.time_s:
            text = f"{name}: no longer on the critical path, was {before} of the step"
        elif not self.time_before_s:
            text = f"{name}: {now} of the step, was not on the critical path"
        else:
            text = f"{name}: {now} of the step, was {before}"
        text += _bound(self.bound_by, self.bound_by_before)
        if self.bytes is not None and self.bytes_before is not None and self.bytes != self.bytes_before:
            text += f"; {format_size(self.bytes)}, was {format_size(self.bytes_before)}"
        if self.algorithm != self.algorithm_before and self.algorithm and self.algorithm_before:
            text += f"; algorithm {self.algorithm}, was {self.algorithm_before}"
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class StepChange:
    """A step that changed. `problem` says what else is different: the row is new, is gone, or does not fit any more.

    With a problem there are no values to compare. `ops` are those that explain the change, the largest first.
    """

    strategy: str
    gpus: int
    problem: str = ""
    step_time_before_s: float | None = None
    step_time_s: float | None = None
    bound_by_before: str = ""
    bound_by: str = ""
    bytes_per_worker_before: float | None = None
    bytes_per_worker: float | None = None
    memory_bytes_before: float | None = None
    memory_bytes: float | None = None
    ops: tuple[OpChange, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        label = f"{self.strategy} on {counted(self.gpus, 'GPU')}"
        if self.problem:
            yield f"{label}: {self.problem}"
            return
        assert self.step_time_s is not None and self.step_time_before_s is not None
        text = f"{label}: step {format_time(self.step_time_s)}, was {format_time(self.step_time_before_s)}"
        text += f" ({_percent(self.step_time_s, self.step_time_before_s)})"
        text += _bound(self.bound_by, self.bound_by_before)
        for what, now, before in (
            ("sent a worker", self.bytes_per_worker, self.bytes_per_worker_before),
            ("memory", self.memory_bytes, self.memory_bytes_before),
        ):
            if now is not None and before is not None and now != before:
                text += f"; {what} {format_size(now)}, was {format_size(before)}"
        yield text
        for op in self.ops:
            yield f"  {op}"


def _bound(now: str, before: str) -> str:
    if not now or not before or now == before:
        return f", bound by {bound_label(now or before)}"
    return f", bound by {bound_label(now)}, before by {bound_label(before)}"


def _percent(now: float, before: float) -> str:
    share = now / before - 1
    return f"{100 * share:+.3g} %"


def kept(row: Values) -> dict[str, Any]:
    """The part that a golden file keeps of a row of a projection, or of a replay, as `--json` prints it."""
    return {
        "strategy": row["strategy"],
        "gpus": row["gpus"] if "gpus" in row else row["ranks"],
        "does_not_fit": row.get("does_not_fit"),
        **{key: row.get(key) for key in _BEFORE},
        "bound_by": row.get("bound_by", ""),
        "critical_path": [
            {"name": op["name"], "what": op["what"], "time_by_bound_s": dict(op["time_by_bound_s"])}
            for op in row.get("critical_path", ())
        ],
        "collectives": {
            op["name"]: {"bytes": op["bytes"], "algorithm": op["algorithm"]} for op in row.get("comm_by_op", ())
        },
    }


def changes_of(before: Sequence[Values], now: Sequence[Values], tolerance: float) -> tuple[StepChange, ...]:
    """The steps that differ by more than `tolerance`, a share, in their time, bytes or memory; rows are those of
    `kept`."""
    old = _by_label(before)
    new = _by_label(now)
    changes = []
    for label in [*old, *(label for label in new if label not in old)]:
        problem = _problem(old.get(label), new.get(label))
        if problem:
            changes.append(StepChange(strategy=label[0], gpus=label[1], problem=problem))
        elif label in old and any(_differs(old[label][key], new[label][key], tolerance) for key in _BEFORE):
            changes.append(_step_change(old[label], new[label], tolerance))
    return tuple(changes)


def _by_label(rows: Sequence[Values]) -> dict[tuple[str, int, int], Values]:
    """Rows by strategy, number of GPUs, and how many such rows came before."""
    labelled: dict[tuple[str, int, int], Values] = {}
    for row in rows:
        number = sum(key[:2] == (row["strategy"], row["gpus"]) for key in labelled)
        labelled[row["strategy"], row["gpus"], number] = row
    return labelled


def _problem(old: Values | None, new: Values | None) -> str:
    """The reason why two rows cannot be compared; empty if they can be, or if neither fits."""
    if new is None:
        return "is gone"
    if old is None:
        return "is new"
    if new["does_not_fit"] and not old["does_not_fit"]:
        return f"does not fit any more: {new['does_not_fit']}"
    return "fits now, and did not before" if old["does_not_fit"] and not new["does_not_fit"] else ""


def _differs(old: float | None, new: float | None, tolerance: float) -> bool:
    if old is None or new is None:
        return False
    return abs(new - old) > tolerance * abs(old)


def _step_change(old: Values, new: Values, tolerance: float) -> StepChange:
    numbers: dict[str, Any] = {}
    for key, earlier in _BEFORE.items():
        is_same = key != "step_time_s" and not _differs(old[key], new[key], tolerance)
        numbers[key] = new[key]
        numbers[earlier] = new[key] if is_same else old[key]
    return StepChange(
        strategy=new["strategy"],
        gpus=new["gpus"],
        bound_by_before=old["bound_by"],
        bound_by=new["bound_by"],
        ops=_op_changes(old, new),
        **numbers,
    )


def _op_changes(old: Values, new: Values) -> tuple[OpChange, ...]:
    """The ops that explain the change of a step, the largest change first."""
    before = _path(old)
    now = _path(new)
    changes = [_op_change(key, before, now, old, new) for key in grown(_seconds(before), _seconds(now))]
    total = abs(sum(change.change_s for change in changes))
    return tuple(
        change
        for number, change in enumerate(changes[:_MOST_OPS])
        if change.change_s and (number == 0 or abs(change.change_s) >= _EXPLAINS * total)
    )


def _path(row: Values) -> _Path:
    return {(op["name"], op["what"]): op["time_by_bound_s"] for op in row["critical_path"]}


def _seconds(path: _Path) -> dict[tuple[str, str], float]:
    return {op: sum(parts.values()) for op, parts in path.items()}


def _op_change(
    key: tuple[str, str],
    before: _Path,
    now: _Path,
    old: Values,
    new: Values,
) -> OpChange:
    was = before.get(key, {})
    parts = now.get(key, {})
    old_op, new_op = (row["collectives"].get(key[0], {}) for row in (old, new))
    return OpChange(
        name=key[0],
        what=key[1],
        time_before_s=sum(was.values()),
        time_s=sum(parts.values()),
        bound_by_before=max(was, key=lambda bound: was[bound], default=""),
        bound_by=max(parts, key=lambda bound: parts[bound], default=""),
        bytes_before=old_op.get("bytes"),
        bytes=new_op.get("bytes"),
        algorithm_before=old_op.get("algorithm", ""),
        algorithm=new_op.get("algorithm", ""),
        by_bound_s={bound: parts.get(bound, 0.0) - was.get(bound, 0.0) for bound in dict.fromkeys([*was, *parts])},
    )


def plain(change: StepChange | OpChange) -> dict[str, Any]:
    """A change as JSON values, units in the keys."""
    values = {part.name: getattr(change, part.name) for part in fields(change)}
    if isinstance(change, StepChange):
        values["ops"] = [plain(op) for op in change.ops]
    return values
