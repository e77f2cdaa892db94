"""Plans of a job: what `plan_job` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dessim.results.flat.steps import StepRow
from dessim.results.flat.view import Table, Values, View


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow(View):
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
class PlanRow(View):
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
class PlanResult(Table[PlanRow]):
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
