"""Candidates of a job on one number of GPUs: plans that are simulated, and those found near the best of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dessim.cluster import Cluster
from dessim.commands.project import ProjectRequest, Row, run_projection
from dessim.commands.support.projection import Misfit, Projection
from dessim.errors import CapacityError, UsageError
from dessim.plan.loads import Choice, Loads
from dessim.plan.place import Placed, rounded
from dessim.plan.refine import refine
from dessim.sim.engine import NetworkName
from dessim.sim.progress import Progress
from dessim.workload.composed import GROUPED, TablePlan, compose, tables_of_strategy
from dessim.workload.model import Model
from dessim.workload.plan import Plan
from dessim.workload.plan_file import TABLE_STRATEGIES, JobPlan
from dessim.workload.scale import Job
from dessim.workload.strategies import STRATEGIES
from dessim.workload.strategies import plan as plan_of

WHOLE = tuple(spec.name for spec in STRATEGIES.values() if spec.synchronous and not spec.has_servers)
"""The strategies that train a whole model, each by itself."""
_STARTS = 3
"""The simulated plans that are refined."""
_SETTLED = 6
"""The best plans, which are not simulated roughly."""


@dataclass(frozen=True, slots=True)
class Search:
    """A job to plan. `batch` samples a step, all workers together. `pinned`: the choice of some tables, by number.
    `strategies`: those that all other tables may have. `graphs`, `network`: as in ProjectRequest. `by_table`: leave out
    strategies that train the whole model in another form. `given`: plans of tables that compete, by the names of their
    files."""

    job: Job
    cluster: Cluster
    gpus: int
    batch: int
    pinned: Mapping[int, Choice]
    graphs: bool = False
    network: NetworkName = "fluid"
    strategies: Sequence[str] = TABLE_STRATEGIES
    by_table: bool = False
    given: Mapping[str, JobPlan] = field(default_factory=dict)

    @property
    def model(self) -> Model:
        return self.job.model


@dataclass(frozen=True, slots=True)
class Candidate:
    """A simulated plan: of `tables`, or of a strategy for the whole model if there are none.

    `estimate_s`: its step by formula; None for strategies of whole models. `source`: the file of a plan that was given;
    empty for those that were found.
    """

    row: Projection
    plan: Plan
    tables: tuple[TablePlan, ...] = ()
    estimate_s: float | None = None
    source: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            **self.row.to_json(),
            "planned": bool(self.tables) and not self.source,
            "source": self.source,
            "estimate_s": self.estimate_s,
            "tables": [
                {"strategy": table.family, "ranks": list(table.ranks), "columns": list(table.columns)}
                for table in self.tables
            ],
        }


def simulate(asked: Search, best: Sequence[Placed], progress: Progress) -> tuple[list[Candidate], tuple[str, ...]]:
    """The finalists, the strategies of whole models and given plans, simulated; and which given plans do not fit.

    Raises CapacityError if none fits.
    """
    whole = {} if asked.pinned else _whole_plans(asked)
    best = [placed for placed in best if _only_strategy(placed) not in whole]
    plans = [compose(asked.model, placed.tables) for placed in best]
    given = [plan for job in asked.given.values() for plan in job.composed(asked.model)]
    rows = _rows(asked, list(whole), [*plans, *given], progress)
    candidates: list[tuple[Plan, tuple[TablePlan, ...], float | None, str]]
    candidates = [(plan, (), None, "") for plan in whole.values()]
    candidates += [(plan, placed.tables, placed.seconds, "") for plan, placed in zip(plans, best, strict=True)]
    candidates += [(plan, job.tables, None, file) for plan, (file, job) in zip(given, asked.given.items(), strict=True)]
    pairs = list(zip(rows, candidates, strict=True))
    found = [Candidate(row, *candidate) for row, candidate in pairs if isinstance(row, Projection)]
    misfits = [(candidate[-1], row) for row, candidate in pairs if isinstance(row, Misfit)]
    return found, tuple(f"{file}: {row.reason}" for file, row in misfits if file)


def step_of(candidate: Candidate) -> float:
    """Seconds of its step, to nine digits."""
    return rounded(candidate.row.breakdown.step_time_s)


def _rows(
    asked: Search, strategies: Sequence[str], plans: Sequence[Plan], progress: Progress, rough: bool = True
) -> list[Row]:
    request = ProjectRequest(
        job=asked.job,
        cluster=asked.cluster,
        strategies=strategies,
        gpus=[asked.gpus],
        batch_per_worker=asked.batch // asked.gpus,
        servers=None,
        graphs=asked.graphs,
        network=asked.network,
        rough=rough,
        composed=plans,
    )
    return run_projection(request, progress)


def refined(asked: Search, loads: Loads, simulated: Sequence[Candidate]) -> list[Candidate]:
    """Further plans near the best of `simulated` that has a strategy for each table and was not given."""
    found: list[Candidate] = []

    def simulated_steps(changed: Sequence[Placed]) -> dict[tuple[TablePlan, ...], float]:
        plans = [compose(asked.model, placed.tables) for placed in changed]
        with suppress(CapacityError):  # none fits
            rows = zip(_rows(asked, [], plans, Progress()) if plans else [], plans, changed, strict=True)
            new = [Candidate(r, plan, p.tables, p.seconds) for r, plan, p in rows if isinstance(r, Projection)]
            found.extend(new)
            return {one.tables: one.row.breakdown.step_time_s for one in new}
        return {}

    ours = sorted((one for one in simulated if not one.source), key=step_of)
    of_tables = [(tables, one) for one in ours if (tables := _tables_of(asked, one))]
    starts = {tables: one.row.breakdown.step_time_s for tables, one in of_tables[:_STARTS]}
    nodes = asked.cluster.node_of(np.arange(asked.gpus))
    refine(loads, starts, asked.strategies, asked.pinned, asked.model.widths, nodes, simulated_steps)
    return found


def settled(asked: Search, ranked: Sequence[Candidate]) -> list[Candidate]:
    """The best of `ranked` simulated again, not roughly; the fastest first."""
    pairs = [(one, False) for one in ranked]
    while not all(is_settled for _, is_settled in pairs[:_SETTLED]):
        first = [one for one, is_settled in pairs[:_SETTLED] if not is_settled]
        rows = _rows(asked, [], [one.plan for one in first], Progress(), rough=False)
        again = [(replace(one, row=r), True) for one, r in zip(first, rows, strict=True) if isinstance(r, Projection)]
        kept = [pair for pair in pairs[:_SETTLED] if pair[1]]
        pairs = sorted([*kept, *again, *pairs[_SETTLED:]], key=lambda pair: order(pair[0]))
    return [one for one, _ in pairs]


def order(found: Candidate) -> tuple[float, bool, bool]:
    """The fastest first; of equal plans those of tables, and those that were found."""
    return step_of(found), not found.tables, bool(found.source)


def _tables_of(asked: Search, candidate: Candidate) -> tuple[TablePlan, ...]:
    """How a candidate trains each table; empty for strategies that train the model in another form."""
    name = candidate.row.strategy
    if candidate.tables or name not in GROUPED:
        return candidate.tables
    return tables_of_strategy(name, asked.model, asked.gpus)


def _only_strategy(placed: Placed) -> str:
    """The strategy that trains all tables without naming owners; empty if there are several, or owners."""
    strategies = {table.strategy for table in placed.tables if not table.ranks}
    return strategies.pop() if len(strategies) == 1 and not any(table.ranks for table in placed.tables) else ""


def _whole_plans(asked: Search) -> dict[str, Plan]:
    """The plans of the strategies that can train the whole model, by name, without those that tables must not have."""
    plans = {}
    for name in WHOLE:
        if name in asked.strategies or not (asked.by_table or name in TABLE_STRATEGIES):
            with suppress(UsageError):
                plans[name] = plan_of(name, asked.model)
    return plans
