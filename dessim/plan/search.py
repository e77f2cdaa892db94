"""The best plans of a job on one number of GPUs: priced by formula, then simulated.

A candidate is the best plan by formula of a set of allowed strategies. Every set has one, so that plans of different
kinds are compared, those with a single strategy included. The best 16 are simulated, together with every strategy that
trains the whole model, DES and the mesh among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from dessim.arrays import significant
from dessim.cluster import Cluster, Gpu
from dessim.errors import CapacityError
from dessim.plan.by_rank import ByRank, load_by_rank
from dessim.plan.caches import memory_is_short, memory_of_hosts, to_host_of, with_caches
from dessim.plan.candidates import Candidate, PlanProblem, order, refined, settled, simulate
from dessim.plan.choose import Chosen, choose
from dessim.plan.limits import MAX_GPUS_BY_RANK, MAX_TABLES_IN_FULL
from dessim.plan.loads import Loads, loads_of
from dessim.plan.place import Placed, place, split_further
from dessim.plan.rates import simulated_rates
from dessim.plan.replicated import in_replicas
from dessim.plan.unfit import spill_advice, too_large
from dessim.results.error_bar import is_tie
from dessim.sim.fluid.route_cache import RouteCache
from dessim.sim.progress import Progress
from dessim.workload.composed import COLUMN_WISE, ON_SERVERS, SPILT, TablePlan
from dessim.workload.plan import Placement, Plan
from dessim.workload.plan_file import JobPlan

FINALISTS = 16
_ROOMS = (0.95, 0.9, 0.85, 0.8, 0.7)
"""Shares of GPUs' memory that spilt tables may fill: the next is tried where tables cannot be placed."""
_SPLIT_FURTHER = 6  # the number of best candidates whose tables are split further


@dataclass(frozen=True, slots=True)
class RankedPlans:
    """The plans of one number of GPUs, the fastest first.

    `bound_s`: a lower bound of every plan's estimate, from HiGHS. `gap`: how far the best estimate is above it, as a
    share.
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

    def job_plan(self) -> JobPlan:
        """The best plan, for its file."""
        best = self.best
        return JobPlan(
            self.gpus,
            self.batch,
            best.tables,
            "" if best.tables else best.row.strategy,
            best.codecs,
            replicas=best.replicas,
        )

    def ties(self) -> list[bool]:
        """For each candidate, whether it may be as fast as the best: its lead is within the error bar."""
        best = self.best.row.to_json()
        return [number > 0 and is_tie(best, c.row.to_json()) for number, c in enumerate(self.candidates)]


def search(problem: PlanProblem, progress: Progress) -> RankedPlans:
    """Plan a job on one number of GPUs. Raises CapacityError if nothing fits, UsageError, and OutOfTime."""
    cluster = problem.cluster
    n = problem.gpus
    cluster.require(n)
    server = _server(cluster, n)
    # A pin to a server leaves its number of GPUs open; fill it in.
    on_server = {table for table, choice in problem.pinned.items() if choice.placement is Placement.SERVERS}
    pinned = {t: replace(c, parts=max(server, 1)) if t in on_server else c for t, c in problem.pinned.items()}
    # Plans with tables on servers are simulated rank by rank, which takes 40 s for 1,024 GPUs.
    many = n > MAX_GPUS_BY_RANK and not on_server and len(set(problem.strategies) - {SPILT}) > 1
    strategies = [name for name in problem.strategies if name != ON_SERVERS or not many]
    routed = problem.routed or RouteCache(cluster)
    problem = replace(problem, pinned=pinned, strategies=strategies, routed=routed)
    gpu = cluster.device(range(n), "dessim plan")
    symbols = problem.job.symbols(n, problem.batch // n)
    loads = loads_of(
        problem.model,
        symbols,
        gpu.shared_by(n),
        rate_of=simulated_rates(routed, n, server),
        graphs=problem.graphs,
        server=server,
        codecs=problem.codecs,
    )
    loads, bound, placed = _with_spilt(problem, loads, gpu, symbols, progress.within(0, 2))
    best = [*_finalists(placed), *in_replicas(problem, gpu, routed, server)]
    simulated, refused = simulate(problem, best, progress.within(1, 2))
    simulated += refined(problem, loads, simulated)
    ranked = sorted(simulated, key=order)
    if problem.network == "packet":
        ranked = settled(problem, ranked)
    gap = min(one.seconds for one in placed) / bound - 1
    return RankedPlans(n, problem.batch, tuple(ranked), bound, max(gap, 0.0), loaded(problem, ranked[0].plan), refused)


def loaded(problem: PlanProblem, plan: Plan) -> ByRank:
    """The loads of each rank under a plan of a job."""
    gpu = problem.cluster.device(range(problem.gpus), "dessim plan")
    symbols = problem.job.symbols(problem.gpus, problem.batch // problem.gpus)
    return load_by_rank(problem.job, gpu, replace(plan, graphs=problem.graphs), symbols)


def _server(cluster: Cluster, n: int) -> int:
    """The GPUs of each server, where `n` GPUs are on several servers with equally many; 0 otherwise."""
    sizes = np.bincount(cluster.node_of(np.arange(n)))
    return int(sizes[0]) if len(sizes) > 1 and sizes[0] > 1 and (sizes == sizes[0]).all() else 0


def _finalists(placed: Sequence[Placed]) -> list[Placed]:
    """The best plan by estimate of each set of strategies, then the others.

    Plans of many kinds are simulated, since the estimate compares plans of one kind better than those of several.
    """
    ordered = sorted(placed, key=lambda one: significant(one.seconds))
    of_sets: dict[frozenset[tuple[str, bool]], Placed] = {}
    for one in ordered:
        of_sets.setdefault(frozenset((table.family, table.cached_rows > 0) for table in one.tables), one)
    first = list(of_sets.values())
    return [*first, *(one for one in ordered if one not in first)][:FINALISTS]


def _with_spilt(
    problem: PlanProblem, loads: Loads, gpu: Gpu, symbols: Mapping[str, float], progress: Progress
) -> tuple[Loads, float, list[Placed]]:
    """All loads, the bound of all plans, and the candidates, where memory is short also with spilt tables.

    Raises CapacityError where nothing fits.
    """
    on_gpus = replace(problem, strategies=[name for name in problem.strategies if name != SPILT])
    bound_and_placed = _candidates(on_gpus, loads, progress)
    bandwidth = to_host_of(problem.cluster, problem.gpus) if SPILT in problem.strategies else None
    if bandwidth is None or (bound_and_placed is not None and not memory_is_short(loads, bound_and_placed[1])):
        if bound_and_placed is None:
            raise CapacityError(too_large(on_gpus, loads, gpu, spill_advice(problem)))
        return loads, *bound_and_placed
    hosts = memory_of_hosts(problem.cluster, problem.gpus)
    loads = with_caches(loads, problem.model, symbols, bandwidth, hosts)
    chosen = choose(loads, problem.strategies, problem.pinned)
    if bound_and_placed is None:
        bound_and_placed = _candidates(problem, loads, progress) or _roomier(problem, loads, chosen)
        if bound_and_placed is None:
            raise CapacityError(too_large(problem, loads, gpu))
        return loads, *bound_and_placed
    bound, placed = bound_and_placed
    if chosen is not None:
        nodes = problem.cluster.node_of(np.arange(problem.gpus))
        spilt = place(loads, chosen.choices, problem.model.widths, nodes)
        bound = min(bound, chosen.bound)
        if spilt is not None and all(spilt.tables != one.tables for one in placed):
            placed = [*placed, spilt]
    return loads, bound, placed


def _roomier(problem: PlanProblem, loads: Loads, best: Chosen | None) -> tuple[float, list[Placed]] | None:
    """A plan that fills less memory where the `best` choices cannot be placed, with their bound; None if there is none.

    HiGHS sees only a GPU's mean memory; where memory is short, no placement may be that even.
    """
    if best is None:
        return None
    widths = problem.model.widths
    nodes = problem.cluster.node_of(np.arange(problem.gpus))
    for room in _ROOMS:
        chosen = choose(replace(loads, room=room * loads.room), problem.strategies, problem.pinned)
        placed = place(loads, chosen.choices, widths, nodes) if chosen is not None else None
        if placed is not None:
            return best.bound, [placed]
    return None


def _candidates(problem: PlanProblem, loads: Loads, progress: Progress) -> tuple[float, list[Placed]] | None:
    """A bound of all plans, and the different best plans of sets of strategies; None where nothing fits.

    Where tables may be spilt, only the set of all strategies and the sets of a single one are tried.
    """
    widths = problem.model.widths
    nodes = problem.cluster.node_of(np.arange(problem.gpus))
    best = choose(loads, problem.strategies, problem.pinned)
    if best is None:
        return None
    by_tables: dict[tuple[TablePlan, ...], Placed] = {}
    may_split: list[tuple[Placed, Chosen]] = []
    offered = {choice.family for choice in loads.by_choice}
    strategies = [name for name in problem.strategies if name != SPILT and (name in offered or name != ON_SERVERS)]
    spills = [SPILT] if SPILT in problem.strategies else []
    sizes = dict.fromkeys((len(strategies), 1)) if spills else range(len(strategies), 0, -1)
    sets = [family for size in sizes for family in combinations(strategies, size)]
    solved: list[tuple[set[str], set[str]]] = []  # the strategies that were allowed, and those that were used
    for done, families in enumerate(sets):
        progress.tick(done, len(sets), "sets of strategies")
        # The best plan of more strategies is the best of these too if it uses no others. HiGHS may still find another
        # one within its tolerance, which may be faster in the simulation. With many tables that search takes too long.
        if loads.tables > MAX_TABLES_IN_FULL and any(used <= set(families) <= among for among, used in solved):
            continue
        everything = len(families) == len(strategies)
        chosen: Chosen | None = best if everything else choose(loads, [*families, *spills], problem.pinned)
        if chosen is not None:
            free = {choice.family for table, choice in enumerate(chosen.choices) if table not in problem.pinned}
            solved.append((set(families), free))
        placed = place(loads, chosen.choices, widths, nodes) if chosen is not None else None
        if chosen is not None and placed is not None and placed.tables not in by_tables:
            by_tables[placed.tables] = placed
            if COLUMN_WISE in families:
                may_split.append((placed, chosen))
    if not by_tables:
        return None
    movable = [table for table in range(len(widths)) if table not in problem.pinned]
    for placed, chosen in sorted(may_split, key=lambda pair: significant(pair[0].seconds))[:_SPLIT_FURTHER]:
        better = split_further(loads, chosen.choices, placed, widths=widths, nodes=nodes, movable=movable)
        by_tables.setdefault(better.tables, better)
    return best.bound, list(by_tables.values())
