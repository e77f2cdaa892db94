"""Steps of a job: what `project` and `replay` return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dessim import deprecation
from dessim.results.flat.view import Table, Values, View, frame, interval

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class OpRow(View):
    """A communication op of a step.

    `bytes` is S as nccl-tests counts it. `time_s` is the time in which it moved data, `exposed_s` the time in which a
    rank waited for it without computing. `bound_by` is what bound most of its time. `bytes_by_link` are the bytes that
    each class of links carried for it.
    """

    name: str
    collective: str
    algorithm: str
    bytes: float
    time_s: float
    exposed_s: float
    bound_by: str
    bytes_by_link: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PathRow(View):
    """An op on the critical path of a step, or the host's wait before it (`what` is then `host`).

    The times of all of them add up to the step. `rank`: where it took longest.
    """

    name: str
    what: str
    rank: int
    time_s: float
    bound_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIfRow(View):
    """A step after one change of the cluster, such as `2x:nic_rate`.

    `speedup` is the ratio of throughputs. Without times, `does_not_fit` says what the changed job lacks. Where a trace
    does not state its batch, `samples_per_s` is None.
    """

    change: str
    step_time_s: float | None
    samples_per_s: float | None
    speedup: float | None
    does_not_fit: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(View):
    """A simulated step. Its time is the sum of compute, exposed communication and idle time, means over the ranks."""

    strategy: str
    step_time_s: float
    low_s: float | None
    high_s: float | None
    bound_by: str
    compute_s: float
    exposed_comm_s: float
    idle_s: float
    bytes_by_link: Mapping[str, float]
    ops: tuple[OpRow, ...]
    critical_path: tuple[PathRow, ...]
    what_if: tuple[WhatIfRow, ...] = ()

    @classmethod
    def _nested(cls, values: Values) -> dict[str, Any]:
        return {
            **interval(values),
            "ops": tuple(map(OpRow.from_json, values["comm_by_op"])),
            "critical_path": tuple(map(PathRow.from_json, values["critical_path"])),
            "what_if": tuple(map(WhatIfRow.from_json, values.get("what_if", ()))),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow(Step):
    """The simulated step of one strategy at one scale.

    `batch`: samples a step, of all GPUs. `low_s` and `high_s` are the ends of the 80 % interval of the step; None where
    the spread of a part is not known. `bound_by`: what bounds most of the critical path, a class of links, `compute`,
    `latency` or `late rank`. Waits for the rank that computes longest count in `exposed_comm_s`, and on the critical
    path as `compute`. `bytes_per_worker`: what a worker sends in a step, mean; `busiest_worker_bytes`: the most
    that one sends, None with dedicated servers. `memory_bytes`: what a GPU needs. `lower_bound`: a step of ideal parts,
    such as servers that answer at once. `provenance` says where the numbers come from, `caveat` what is left out.
    """

    gpus: int
    batch: int
    samples_per_s: float
    bytes_per_worker: float
    busiest_worker_bytes: float | None
    bytes_by_traffic: Mapping[str, float]
    memory_bytes: float
    lower_bound: bool
    provenance: Mapping[str, str]
    caveat: str

    @property
    def breakdown(self) -> StepRow:
        """The row itself, whose attributes were once those of a breakdown; deprecated."""
        deprecation.warn("StepRow.breakdown", "the row's own attributes, such as row.step_time_s")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class MisfitRow(View):
    """A strategy that does not fit the memory at a scale. `does_not_fit` says what to change."""

    gpus: int
    strategy: str
    batch: int
    memory_bytes: float
    does_not_fit: str


def step_or_misfit(row: Values) -> StepRow | MisfitRow:
    """A row of a projection."""
    return MisfitRow.from_json(row) if row["does_not_fit"] else StepRow.from_json(row)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectResult(Table[StepRow]):
    """The steps of a job on a cluster, by number of GPUs, then in the order of the strategies.

    `rows` are those that fit the memory, and `misfits` the others. `to_frame` has both, misfits without times.
    """

    cluster: str
    model: str
    rows: tuple[StepRow, ...]
    misfits: tuple[MisfitRow, ...]
    _question: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def _nested(cls, values: Values) -> dict[str, Any]:
        rows = [step_or_misfit(row) for row in values["projection"]]
        return {
            "rows": tuple(row for row in rows if isinstance(row, StepRow)),
            "misfits": tuple(row for row in rows if isinstance(row, MisfitRow)),
        }

    def to_frame(self) -> pd.DataFrame:
        """One line a row, misfits last."""
        return frame([self._cells() | row._cells() for row in (*self.rows, *self.misfits)])


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult(Step):
    """A recorded job on a cluster; a step is the mean of all steps.

    `measured_step_s`: without the recorder; None where the trace has no such steps. `recorded_step_s`: with it.
    `prediction_error` and `self_replay_error`: how much longer the predicted step is than either, as a share.
    `note`: what to know of the comparison.
    """

    cluster: str
    ranks: int
    steps: int
    measured_step_s: float | None
    prediction_error: float | None
    recorded_step_s: float | None
    self_replay_error: float | None
    note: str = ""
    _question: Any = field(default=None, repr=False, compare=False)

    def to_frame(self) -> pd.DataFrame:
        """One line."""
        return frame([self._cells()])
