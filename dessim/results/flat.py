"""Results as frozen dataclasses: the typed form of the objects that `--json` prints.

A result is made from such an object by `from_json`, and `to_json` returns the object. Attributes have the names of the
object's keys, with two exceptions: the ends of an 80 % interval are `low_s` and `high_s`, and the ops of a step are
`ops`. Results with rows are sequences of them, and `to_frame` returns a pandas DataFrame with one line a row. Seconds,
bytes and rates have their unit in the name; other numbers are counts, or shares from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from dessim import deprecation

if TYPE_CHECKING:
    import pandas as pd

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """The typed form of an object of `--json`."""

    _json: Values = field(repr=False, compare=False)

    @classmethod
    def from_json(cls, values: Values) -> Self:
        """The result that an object of `--json` states."""
        named = {part.name: values[part.name] for part in fields(cls) if part.name in values}
        return cls(**named | cls._nested(values), _json=values)

    @classmethod
    def _nested(cls, values: Values) -> dict[str, Any]:
        """Attributes that are not simply a value of the object."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """The object of `--json`: plain values, units in the keys."""
        return dict(self._json)

    def _cells(self) -> dict[str, Any]:
        """The attributes that fit a cell of a table."""
        named = {part.name: getattr(self, part.name) for part in fields(self)}
        return {n: value for n, value in named.items() if n[0] != "_" and not isinstance(value, (Mapping, tuple))}


Row = TypeVar("Row", bound=_View)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table(_View, Generic[Row]):
    """A result with rows, which is a sequence of them."""

    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Row:
        return self.rows[number]

    def to_frame(self) -> pd.DataFrame:
        """One line a row, with the result's own values in front."""
        return _frame([self._cells() | row._cells() for row in self.rows])


def _frame(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpRow(_View):
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
class PathRow(_View):
    """An op on the critical path of a step, or the host's wait before it (`what` is then `host`).

    The times of all of them add up to the step. `rank`: where it took longest.
    """

    name: str
    what: str
    rank: int
    time_s: float
    bound_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIfRow(_View):
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
class _Step(_View):
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
            **_interval(values),
            "ops": tuple(map(OpRow.from_json, values["comm_by_op"])),
            "critical_path": tuple(map(PathRow.from_json, values["critical_path"])),
            "what_if": tuple(map(WhatIfRow.from_json, values.get("what_if", ()))),
        }


def _interval(values: Values) -> dict[str, float | None]:
    """The ends of the 80 % interval of a time, None where it has none."""
    interval = values["interval"] or {}
    return {"low_s": interval.get("low_s"), "high_s": interval.get("high_s")}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow(_Step):
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
class MisfitRow(_View):
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
class ProjectResult(_Table[StepRow]):
    """The steps of a job on a cluster, by number of GPUs, then in the order of the strategies.

    `rows` are those that fit the memory, and `misfits` the others. `to_frame` has both, misfits without times.
    """

    cluster: str
    model: str
    rows: tuple[StepRow, ...]
    misfits: tuple[MisfitRow, ...]
    _asked: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def _nested(cls, values: Values) -> dict[str, Any]:
        rows = [step_or_misfit(row) for row in values["projection"]]
        return {
            "rows": tuple(row for row in rows if isinstance(row, StepRow)),
            "misfits": tuple(row for row in rows if isinstance(row, MisfitRow)),
        }

    def to_frame(self) -> pd.DataFrame:
        """One line a row, misfits last."""
        return _frame([self._cells() | row._cells() for row in (*self.rows, *self.misfits)])


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult(_Step):
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
    _asked: Any = field(default=None, repr=False, compare=False)

    def to_frame(self) -> pd.DataFrame:
        """One line."""
        return _frame([self._cells()])


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveResult(_View):
    """A collective on an idle cluster, with the columns of nccl-tests.

    `size_bytes` is S; `algbw_GBps` is S / time, `busbw_GBps` comparable with the rate of a link, both in 1e9 bytes/s.
    `low_s` and `high_s` are the ends of the 80 % interval, None where the spread is not known. `error_bound`: the
    relative error that a tolerance allowed.
    """

    cluster: str
    op: str
    gpus: int
    size_bytes: int
    algorithm: str
    time_s: float
    low_s: float | None
    high_s: float | None
    algbw_GBps: float
    busbw_GBps: float
    bound_by: str
    error_bound: float

    @classmethod
    def _nested(cls, values: Values) -> dict[str, Any]:
        return _interval(values)

    def to_frame(self) -> pd.DataFrame:
        """One line."""
        return _frame([self._cells()])


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow(_View):
    """The strategy of a table. `ranks`: its owners, empty where all ranks own it; `columns`: those of each owner.

    `cached_rows`: where the table's rows are in the host's memory, how many each owner's GPU caches; otherwise 0.
    """

    strategy: str
    ranks: tuple[int, ...]
    columns: tuple[int, ...]
    cached_rows: int = 0

    @classmethod
    def _nested(cls, values: Values) -> dict[str, Any]:
        return {"ranks": tuple(values["ranks"]), "columns": tuple(values["columns"])}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanStepRow(StepRow):
    """The simulated step of a plan.

    `tables` are in the order of the model, empty where one strategy trains the whole model. `codecs`: how values travel
    ("": as they are). `replicas`: of the tables. `planned`: whether the planner made it table by table; `source`: the
    file of a plan that was given. `estimate_s`: the step by formula alone.
    `tie`: it may be as fast as the best, within the error bar.
    """

    planned: bool
    source: str
    codecs: str
    replicas: int
    estimate_s: float | None
    tie: bool
    tables: tuple[TableRow, ...]

    @classmethod
    def _nested(cls, values: Values) -> dict[str, Any]:
        tables = tuple(map(TableRow.from_json, values["tables"]))
        return super(PlanStepRow, cls)._nested(values) | {"tables": tables}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow(_View):
    """The plans of one number of GPUs, the fastest first.

    `bound_s`: no plan's estimate is below it; `gap`: how far the best estimate is above it. `dollars_per_h` and
    `dollars_per_billion` samples are None without prices, `watts` and `joules_per_billion` samples where a part states
    no power. `on_front`: no other number of GPUs is faster at the same or a lower price.
    """

    gpus: int
    batch: int
    strategy: str
    step_time_s: float
    samples_per_s: float
    bound_by: str
    codecs: str
    bound_s: float
    gap: float
    dollars_per_h: float | None
    dollars_per_billion: float | None
    watts: float | None
    joules_per_billion: float | None
    on_front: bool
    plans: tuple[PlanStepRow, ...]

    @classmethod
    def _nested(cls, values: Values) -> dict[str, Any]:
        plans = tuple(map(PlanStepRow.from_json, values["plans"]))
        return {"plans": plans, "step_time_s": plans[0].step_time_s, "bound_by": plans[0].bound_by}

    @property
    def tables(self) -> tuple[TableRow, ...]:
        """The tables of the fastest plan."""
        return self.plans[0].tables


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult(_Table[PlanRow]):
    """The plans of a job at each number of GPUs, and the number that was chosen: the fewest that reach the target, or
    the fastest without one. `left_out`: why a number of GPUs has no plan."""

    cluster: str
    model: str
    rows: tuple[PlanRow, ...]
    chosen_gpus: int
    left_out: Mapping[str, str]

    @classmethod
    def _nested(cls, values: Values) -> dict[str, Any]:
        return {"rows": tuple(map(PlanRow.from_json, values["scales"]))}

    @property
    def chosen(self) -> PlanRow:
        """The row of `chosen_gpus`."""
        return next(row for row in self.rows if row.gpus == self.chosen_gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodputRow(_View):
    """A choice of the checkpoint interval, and the share of time that is useful work.

    `goodput_margin_95` is the half-width of its 95 % confidence interval, `goodput_daly` the value of Daly's complete
    model. The shares of checkpoints, lost work and restarts make up the rest. `failures`: mean number a run.
    """

    interval: str
    interval_s: float
    goodput: float
    goodput_margin_95: float
    goodput_daly: float
    checkpoint_share: float
    lost_share: float
    restart_share: float
    failures: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodputResult(_Table[GoodputRow]):
    """The goodput of a job for several checkpoint intervals, each a mean over `runs` runs of `days` days."""

    nodes: int
    days: float
    runs: int
    between_failures_s: float
    rows: tuple[GoodputRow, ...]

    @classmethod
    def _nested(cls, values: Values) -> dict[str, Any]:
        return {"rows": tuple(map(GoodputRow.from_json, values["rows"]))}
