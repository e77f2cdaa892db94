"""The best plans of a job on one number of GPUs: priced by formula, then simulated.

A candidate is the best plan by formula of a set of allowed strategies. There is one for each set, so that plans of
different kinds are compared, and those of one strategy are among them. The best 16 are simulated, and every strategy
that trains the whole model, DES and the mesh included, competes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from dessim.cluster import Cluster, Gpu
from dessim.commands.project import ProjectRequest, Row, run_projection
from dessim.commands.support.projection import Misfit, Projection
from dessim.errors import CapacityError, UsageError
from dessim.plan.by_rank import ByRank, load_by_rank
from dessim.plan.choose import Chosen, allowed, choose, least_memory, mean_memory
from dessim.plan.loads import Choice, Loads, loads_of
from dessim.plan.place import Placed, place, rounded, split_further
from dessim.plan.rates import simulated_rates
from dessim.plan.refine import refine
from dessim.results.error_bar import is_tie
from dessim.sim.engine import NetworkName
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sim.progress import Progress
from dessim.units import format_size
from dessim.workload.composed import GROUPED, ON_SERVERS, TablePlan, compose
from dessim.workload.model import Model
from dessim.workload.plan import Plan
from dessim.workload.plan_file import TABLE_STRATEGIES, JobPlan, table_name
from dessim.workload.scale import Job
from dessim.workload.strategies import STRATEGIES
from dessim.workload.strategies import plan as plan_of

FINALISTS = 16
_MANY_GPUS, _ON_SERVERS = 256, 4
"""With more GPUs, as many finalists with tables on servers. Their ranks are simulated one by one, which takes long."""
_STARTS = 3
"""The simulated plans that are refined."""
_MANY = 100  # tables
_SPLIT = 6  # of the best candidates, those whose tables are split further
WHOLE = tuple(spec.name for spec in STRATEGIES.values() if spec.synchronous and not spec.has_servers)
"""The strategies that train a whole model, each by itself."""


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


@dataclass(frozen=True, slots=True)
class Found:
    """The plans of one number of GPUs, the fastest first.

    `bound_s`, `gap`: a lower bound of every plan's estimate from HiGHS, and how far the best estimate is above it.
    `by_rank`: the loads of the best plan. `refused`: given plans that do not fit.
    """

    gpus: int
    batch: int
    candidates: tuple[Candidate, ...]
    bound_s: float
    gap: float
    by_rank: ByRank
    refused: tuple[str, ...] = ()

    @property
    def best(self) -> Candidate:
        return self.candidates[0]

    def ties(self) -> list[bool]:
        """For each candidate, whether it may be as fast as the best: its lead is within the error bar."""
        best = self.best.row.to_json()
        return [number > 0 and is_tie(best, c.row.to_json()) for number, c in enumerate(self.candidates)]


def search(asked: Search, progress: Progress) -> Found:
    """Plan a job on one number of GPUs. Raises CapacityError if nothing fits, UsageError, and OutOfTime."""
    cluster, n = asked.cluster, asked.gpus
    cluster.require(n)
    server = _server(cluster, n)
    # A user who pins a table to a server does not say how many GPUs that has.
    on_server = {table for table, choice in asked.pinned.items() if choice.strategy == ON_SERVERS}
    pinned = {t: replace(c, parts=max(server, 1)) if t in on_server else c for t, c in asked.pinned.items()}
    asked = replace(asked, pinned=pinned)
    gpu = cluster.device(range(n), "dessim plan")
    routed = RouteCache(cluster, True)
    symbols = asked.job.symbols(n, asked.batch // n)
    loads = loads_of(asked.model, symbols, gpu, simulated_rates(routed, n, server), asked.graphs, server)
    bound, placed = _candidates(asked, loads, gpu, progress.within(0, 2))
    best = _finalists(asked, placed)
    simulated, refused = _simulated(asked, best, progress.within(1, 2))
    simulated += _refined(asked, loads, simulated)
    ranked = sorted(simulated, key=_order)
    gap = min(found.seconds for found in placed) / bound - 1
    by_rank = load_by_rank(asked.job, gpu, replace(ranked[0].plan, graphs=asked.graphs), symbols)
    return Found(n, asked.batch, tuple(ranked), bound, max(gap, 0.0), by_rank, refused)


def _server(cluster: Cluster, n: int) -> int:
    """The GPUs of each server, where `n` GPUs are several servers of equally many; 0 otherwise."""
    sizes = np.bincount(cluster.node_of(np.arange(n)))
    return int(sizes[0]) if len(sizes) > 1 and sizes[0] > 1 and (sizes == sizes[0]).all() else 0


def _finalists(asked: Search, placed: Sequence[Placed]) -> list[Placed]:
    """The best by estimate; on many GPUs with few that have tables on servers."""
    finalists: list[Placed] = []
    on_servers = 0
    for found in sorted(placed, key=lambda found: rounded(found.seconds)):
        has_some = any(table.strategy == ON_SERVERS for table in found.tables)
        if not (has_some and asked.gpus > _MANY_GPUS and on_servers == _ON_SERVERS):
            finalists.append(found)
            on_servers += has_some
    return finalists[:FINALISTS]


def _order(found: Candidate) -> tuple[float, bool, bool]:
    """The fastest first; of equal plans those of tables, and those that were found."""
    return _step(found), not found.tables, bool(found.source)


def _step(found: Candidate) -> float:
    return rounded(found.row.breakdown.step_time_s)


def _candidates(asked: Search, loads: Loads, gpu: Gpu, progress: Progress) -> tuple[float, list[Placed]]:
    """A bound of all plans, and the best plan of each set of strategies; different plans only."""
    widths, nodes = asked.model.widths, asked.cluster.node_of(np.arange(asked.gpus))
    best = choose(loads, asked.strategies, asked.pinned)
    if best is None:
        raise CapacityError(_too_large(asked, loads, gpu))
    found: dict[tuple[TablePlan, ...], Placed] = {}
    may_split: list[tuple[Placed, Chosen]] = []
    offered = {choice.family for choice in loads.by_choice}
    strategies = [name for name in asked.strategies if name in offered or name != ON_SERVERS]
    sets = [family for size in range(len(strategies), 0, -1) for family in combinations(strategies, size)]
    solved: list[tuple[set[str], set[str]]] = []  # the strategies that were allowed, and those that were used
    for done, families in enumerate(sets):
        progress.tick(done, len(sets), "sets of strategies")
        # The best among more strategies is the best among these too if it uses no others. HiGHS would find another plan
        # within its tolerance, which the simulation may like better; with many tables that costs too much.
        if loads.tables > _MANY and any(used <= set(families) <= among for among, used in solved):
            continue
        everything = len(families) == len(strategies)
        chosen: Chosen | None = best if everything else choose(loads, families, asked.pinned)
        if chosen is not None:
            free = {choice.family for table, choice in enumerate(chosen.choices) if table not in asked.pinned}
            solved.append((set(families), free))
        placed = place(loads, chosen.choices, widths, nodes) if chosen is not None else None
        if chosen is not None and placed is not None and placed.tables not in found:
            found[placed.tables] = placed
            if "column_wise" in families:
                may_split.append((placed, chosen))
    if not found:
        raise CapacityError(_too_large(asked, loads, gpu))
    movable = [table for table in range(len(widths)) if table not in asked.pinned]
    for placed, chosen in sorted(may_split, key=lambda pair: rounded(pair[0].seconds))[:_SPLIT]:
        better = split_further(loads, chosen.choices, placed, widths, nodes, movable)
        found.setdefault(better.tables, better)
    return best.bound, list(found.values())


def _too_large(asked: Search, loads: Loads, gpu: Gpu) -> str:
    """Why no plan fits: the table that fits nowhere, or the memory of all tables together."""
    model, n = asked.model, asked.gpus
    what = f"{model.name} on {n:,} GPUs"
    room = f"{gpu.name} has {format_size(max(loads.room, 0.0))} left for tables"
    options = allowed(loads, asked.strategies, asked.pinned)
    for table, of_table in enumerate(options):
        if not of_table:
            pinned = asked.pinned.get(table)
            may_have = [choice for choice in loads.by_choice if choice.family in asked.strategies]
            tried = [pinned] if pinned is not None else may_have
            needed = [
                least_memory(loads, choice, load)
                for choice in tried
                if choice in loads.by_choice and (load := loads.by_choice[choice][table]) is not None
            ]
            if not needed:
                return f"{what}: {table_name(model, table)} {_impossible(asked, pinned)}"
            by = f" pinned to {pinned.family}" if pinned is not None else ""
            excess, advice = format_size(min(needed) - max(loads.room, 0.0)), _advice(pinned is not None)
            return f"{what}: {table_name(model, table)}{by} fits nowhere, by {excess}: {room}; {advice}"
    least = [
        min(
            mean_memory(loads, choice, load)
            for choice in of_table
            if (load := loads.by_choice[choice][table]) is not None
        )
        for table, of_table in enumerate(options)
    ]
    largest = int(np.argmax(least))
    return (
        f"{what}: the tables need {format_size(sum(least))} a GPU, the largest, {table_name(model, largest)}, "
        f"{format_size(least[largest])}; {room}; {_advice(bool(asked.pinned))}"
    )


def _impossible(asked: Search, pinned: Choice | None) -> str:
    """Why a table can have no choice at all: the one that it is pinned to, or those that are left."""
    if pinned is None:
        return f"can have none of {', '.join(asked.strategies)}"
    return f"cannot be {pinned.family}{f' in {pinned.parts} parts' if pinned.parts > 1 else ''}"


def _advice(is_pinned: bool) -> str:
    return (
        f"use more GPUs, rows of fewer bytes (--precision rows=fp16){', or fewer pinned tables' if is_pinned else ''}"
    )


def _simulated(asked: Search, best: Sequence[Placed], progress: Progress) -> tuple[list[Candidate], tuple[str, ...]]:
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


def _rows(asked: Search, strategies: Sequence[str], plans: Sequence[Plan], progress: Progress) -> list[Row]:
    request = ProjectRequest(
        job=asked.job,
        cluster=asked.cluster,
        strategies=strategies,
        gpus=[asked.gpus],
        batch_per_worker=asked.batch // asked.gpus,
        servers=None,
        graphs=asked.graphs,
        network=asked.network,
        composed=plans,
    )
    return run_projection(request, progress)


def _refined(asked: Search, loads: Loads, simulated: Sequence[Candidate]) -> list[Candidate]:
    """Further plans near the best of `simulated` that has a strategy for each table and was not given."""
    found: list[Candidate] = []

    def simulate(changed: Sequence[Placed]) -> dict[tuple[TablePlan, ...], float]:
        plans = [compose(asked.model, placed.tables) for placed in changed]
        with suppress(CapacityError):  # none fits
            rows = zip(_rows(asked, [], plans, Progress()) if plans else [], plans, changed, strict=True)
            new = [Candidate(r, plan, p.tables, p.seconds) for r, plan, p in rows if isinstance(r, Projection)]
            found.extend(new)
            return {one.tables: one.row.breakdown.step_time_s for one in new}
        return {}

    ours = sorted((one for one in simulated if not one.source), key=_step)
    of_tables = [(tables, one) for one in ours if (tables := _tables_of(asked, one))]
    starts = {tables: one.row.breakdown.step_time_s for tables, one in of_tables[:_STARTS]}
    nodes = asked.cluster.node_of(np.arange(asked.gpus))
    strategies = [name for name in asked.strategies if name != ON_SERVERS or asked.gpus <= _MANY_GPUS]
    refine(loads, starts, strategies, asked.pinned, asked.model.widths, nodes, simulate)
    return found


def _tables_of(asked: Search, candidate: Candidate) -> tuple[TablePlan, ...]:
    """How a candidate trains each table; empty for strategies that train the model in another form."""
    name, n = candidate.row.strategy, asked.gpus
    if candidate.tables or name not in GROUPED:
        return candidate.tables
    if name != "table_wise":
        return tuple(TablePlan(name) for _ in asked.model.widths)
    return tuple(TablePlan(name, (table % n,), (width,)) for table, width in enumerate(asked.model.widths))


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
