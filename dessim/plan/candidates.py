"""Candidates of a job on one number of GPUs: simulated plans, and further ones found near the best of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from dessim.arrays import significant
from dessim.cluster import Cluster
from dessim.commands.project import Row, run_projection
from dessim.commands.support.project_request import ProjectRequest
from dessim.commands.support.projection import Misfit, Projection
from dessim.errors import CapacityError, UsageError
from dessim.plan.loads import STRATEGIES as STRATEGIES_OF_TABLES
from dessim.plan.loads import Choice, Loads
from dessim.plan.place import Placed
from dessim.plan.refine import refine
from dessim.sim.engine import NetworkName
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sim.progress import Progress
from dessim.workload.codecs import PLAIN, CodecConfig
from dessim.workload.coded_plan import encoded
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
"""The number of simulated plans that are refined."""
_SETTLED = 6
"""The number of best plans that are simulated in full, not roughly."""


@dataclass(frozen=True, slots=True)
class PlanProblem:
    """A job to plan on one number of GPUs.

    `batch`: samples a step, all workers together.
    `pinned`: the choice of some tables, by number.
    `graphs`, `network`: as in ProjectRequest.
    `strategies`: those that all other tables may have, and `spilt` if rows may be in the host's memory.
    `by_table`: leave out strategies that train the whole model in another form.
    `given`: plans of tables that compete, by the names of their files.
    `codecs`: the formats in which values travel.
    `replicas`: the numbers of replicas of the tables to try; None: those that may pay.
    `routed`: where all simulations keep their routes; None: each has its own cache.
    """

    job: Job
    cluster: Cluster
    gpus: int
    batch: int
    pinned: Mapping[int, Choice]
    graphs: bool = False
    network: NetworkName = "fluid"
    strategies: Sequence[str] = STRATEGIES_OF_TABLES
    by_table: bool = False
    given: Mapping[str, JobPlan] = field(default_factory=dict)
    codecs: CodecConfig = PLAIN
    replicas: Sequence[int] | None = None
    routed: RouteCache | None = None

    @property
    def model(self) -> Model:
        return self.job.model


@dataclass(frozen=True, slots=True)
class Candidate:
    """A simulated plan: of `tables`, or of a strategy for the whole model if there are none.

    `estimate_s`: its step by formula; None for strategies of whole models, and for given plans.
    `source`: the file of a given plan; empty for those that were found.
    `codecs`: the formats in which its values travel.
    `replicas`: the number of replicas of the tables.
    """

    row: Projection
    plan: Plan
    tables: tuple[TablePlan, ...] = ()
    estimate_s: float | None = None
    source: str = ""
    codecs: CodecConfig = PLAIN
    replicas: int = 1

    @property
    def algorithms(self) -> dict[str, str]:
        """The algorithm that each collective runs in the simulation, by op, in the order of the plan."""
        chosen = {span.name: span.algorithm for span in self.row.record.spans if span.algorithm}
        return {op.name: chosen[op.name] for op in self.plan.collectives if op.name in chosen}

    def to_json(self) -> dict[str, Any]:
        return {
            **self.row.to_json(),
            "planned": bool(self.tables) and not self.source,
            "source": self.source,
            "codecs": self.codecs.text,
            "replicas": self.replicas,
            "estimate_s": self.estimate_s,
            "tables": [
                {
                    "strategy": table.family,
                    "ranks": list(table.ranks),
                    "columns": list(table.columns),
                    **({"cached_rows": table.cached_rows} if table.cached_rows else {}),
                }
                for table in self.tables
            ],
        }


class _Unpriced(NamedTuple):
    """The fields of a Candidate that is not simulated yet."""

    plan: Plan
    tables: tuple[TablePlan, ...] = ()
    estimate_s: float | None = None
    source: str = ""
    codecs: CodecConfig = PLAIN
    replicas: int = 1


def simulate(
    problem: PlanProblem, best: Sequence[Placed], progress: Progress
) -> tuple[list[Candidate], tuple[str, ...]]:
    """The finalists, the strategies of whole models and given plans, simulated; and why some given plans do not fit.

    Raises CapacityError if none fits, and UsageError if none sends what the codecs encode.
    """
    whole = {} if problem.pinned else _whole_plans(problem)
    best = [placed for placed in best if _only_strategy(placed) not in whole]
    given = [plan for job in problem.given.values() for plan in job.composed(problem.model)]
    candidates = [_Unpriced(plan, codecs=own) for plan, own in whole.values()]
    candidates += _composed(problem, best)
    theirs = zip(given, problem.given.items(), strict=True)
    candidates += [_Unpriced(plan, job.tables, None, file, job.codecs, job.replicas) for plan, (file, job) in theirs]
    if not candidates:
        raise UsageError(f"--codecs {problem.codecs}: no plan of {problem.model.name} sends what they encode")
    rows = _rows(problem, [candidate.plan for candidate in candidates], progress)
    pairs = list(zip(rows, candidates, strict=True))
    simulated = [Candidate(row, *candidate) for row, candidate in pairs if isinstance(row, Projection)]
    misfits = [(candidate.source, row) for row, candidate in pairs if isinstance(row, Misfit)]
    return simulated, tuple(f"{file}: {row.reason}" for file, row in misfits if file)


def step_of(candidate: Candidate) -> float:
    """Seconds of a candidate's step, to nine digits."""
    return significant(candidate.row.breakdown.step_time_s)


def recoded(problem: PlanProblem, candidate: Candidate, codecs: CodecConfig) -> Candidate | None:
    """A candidate with other codecs, simulated; None where it sends nothing that they encode, or does not fit."""
    tables = candidate.tables
    model = problem.model
    planned = compose(model, tables, candidate.replicas) if tables else plan_of(candidate.row.strategy, model)
    with suppress(UsageError, CapacityError):
        plan, own = encoded(planned, model, codecs)
        (row,) = _rows(problem, [plan], Progress(), rough=False)
        if isinstance(row, Projection):
            return replace(candidate, row=row, plan=plan, codecs=own)
    return None


def _composed(problem: PlanProblem, placed: Sequence[Placed]) -> list[_Unpriced]:
    """The candidates of `placed`, without those that send nothing to encode where codecs are asked for."""
    unpriced: list[_Unpriced] = []
    for one in placed:
        with suppress(UsageError):
            plan, own = encoded(compose(problem.model, one.tables, one.replicas), problem.model, problem.codecs)
            unpriced.append(_Unpriced(plan, one.tables, one.seconds, "", own, one.replicas))
    return unpriced


def _rows(problem: PlanProblem, plans: Sequence[Plan], progress: Progress, rough: bool = True) -> list[Row]:
    """A row of each plan. Raises CapacityError if none fits."""
    request = ProjectRequest(
        job=problem.job,
        cluster=problem.cluster,
        strategies=[],
        gpus=[problem.gpus],
        batch_per_worker=problem.batch // problem.gpus,
        servers=None,
        graphs=problem.graphs,
        network=problem.network,
        rough=rough,
        composed=plans,
    )
    return run_projection(request, progress, routed=problem.routed)


def refined(problem: PlanProblem, loads: Loads, simulated: Sequence[Candidate]) -> list[Candidate]:
    """Further plans near the best of `simulated` that has a strategy for each table and was not given."""
    further: list[Candidate] = []

    def simulated_steps(changed: Sequence[Placed]) -> dict[tuple[TablePlan, ...], float]:
        unpriced = _composed(problem, changed)
        with suppress(CapacityError):  # none fits
            rows = _rows(problem, [one.plan for one in unpriced], Progress()) if unpriced else []
            pairs = zip(rows, unpriced, strict=True)
            new = [Candidate(row, *candidate) for row, candidate in pairs if isinstance(row, Projection)]
            further.extend(new)
            return {one.tables: one.row.breakdown.step_time_s for one in new}
        return {}

    ours = sorted((one for one in simulated if not one.source and one.replicas == 1), key=step_of)
    of_tables = [(tables, one) for one in ours if (tables := _tables_of(problem, one))]
    starts = {tables: one.row.breakdown.step_time_s for tables, one in of_tables[:_STARTS]}
    nodes = problem.cluster.node_of(np.arange(problem.gpus))
    refine(
        loads,
        starts,
        problem.strategies,
        pinned=problem.pinned,
        widths=problem.model.widths,
        nodes=nodes,
        simulate=simulated_steps,
    )
    return further


def settled(problem: PlanProblem, ranked: Sequence[Candidate]) -> list[Candidate]:
    """`ranked` with the best `_SETTLED` simulated in full, not roughly; the fastest first."""
    pairs = [(one, False) for one in ranked]
    while not all(is_settled for _, is_settled in pairs[:_SETTLED]):
        first = [one for one, is_settled in pairs[:_SETTLED] if not is_settled]
        rows = _rows(problem, [one.plan for one in first], Progress(), rough=False)
        again = [(replace(one, row=r), True) for one, r in zip(first, rows, strict=True) if isinstance(r, Projection)]
        kept = [pair for pair in pairs[:_SETTLED] if pair[1]]
        pairs = sorted([*kept, *again, *pairs[_SETTLED:]], key=lambda pair: order(pair[0]))
    return [one for one, _ in pairs]


def order(candidate: Candidate) -> tuple[float, bool, bool]:
    """Fastest first; ties prefer plans of tables, then found plans to given ones."""
    return step_of(candidate), not candidate.tables, bool(candidate.source)


def _tables_of(problem: PlanProblem, candidate: Candidate) -> tuple[TablePlan, ...]:
    """How a candidate trains each table; empty for strategies that train the model in another form."""
    name = candidate.row.strategy
    if candidate.tables or name not in GROUPED:
        return candidate.tables
    return tables_of_strategy(name, problem.model, problem.gpus)


def _only_strategy(placed: Placed) -> str:
    """The strategy that trains all tables without naming owners; empty if there are several, or owners."""
    if placed.replicas > 1 or any(table.cached_rows for table in placed.tables):
        return ""
    strategies = {table.strategy for table in placed.tables if not table.ranks}
    return strategies.pop() if len(strategies) == 1 and not any(table.ranks for table in placed.tables) else ""


def _whole_plans(problem: PlanProblem) -> dict[str, tuple[Plan, CodecConfig]]:
    """The plan and the codecs of each strategy that can train the whole model, by name.

    Strategies that tables must not have are left out.
    """
    plans = {}
    for name in WHOLE:
        if name in problem.strategies or not (problem.by_table or name in TABLE_STRATEGIES):
            with suppress(UsageError):
                plans[name] = encoded(plan_of(name, problem.model), problem.model, problem.codecs)
    return plans
