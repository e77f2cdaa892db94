"""Plans with replicas of the tables: each block of GPUs has all tables (dessim.workload.replicas).

Replicas save messages over slow links, and cost memory and an exchange of gradients. They are simulated rank by rank,
so a search tries them only for jobs of up to 64 GPUs, unless the user names their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dessim.cluster import Gpu
from dessim.plan.candidates import PlanProblem
from dessim.plan.choose import choose
from dessim.plan.limits import MAX_GPUS_BY_RANK, MAX_TABLES_IN_FULL
from dessim.plan.loads import loads_of
from dessim.plan.place import Placed, place
from dessim.plan.rates import simulated_rates
from dessim.sim.fluid.route_cache import RouteCache
from dessim.workload.plan import Placement

STRATEGIES = ("table_wise", "row_wise", "row_all_to_all", "data_parallel")
"""Those that tables may have in replicas."""


def numbers(problem: PlanProblem, server: int) -> Sequence[int]:
    """The numbers of replicas to try: those that the user names, or each that gives every block whole servers."""
    if problem.replicas is not None:
        return [count for count in problem.replicas if 1 < count <= problem.gpus and problem.gpus % count == 0]
    if (
        not server
        or problem.gpus > MAX_GPUS_BY_RANK
        or len(problem.model.widths) > MAX_TABLES_IN_FULL
        or problem.by_table
    ):
        return []
    return [count for count in range(2, problem.gpus // server + 1) if problem.gpus % (count * server) == 0]


def in_replicas(problem: PlanProblem, gpu: Gpu, routed: RouteCache, server: int) -> list[Placed]:
    """The best plan by formula for each number of replicas where a block's memory holds all tables."""
    strategies = [name for name in problem.strategies if name in STRATEGIES]
    symbols = problem.job.symbols(problem.gpus, problem.batch // problem.gpus)
    plans = []
    for count in numbers(problem, server) if strategies and not problem.codecs else []:
        block = problem.gpus // count
        rates = simulated_rates(routed, problem.gpus, block)
        loads = loads_of(
            problem.model,
            symbols,
            gpu.shared_by(problem.gpus),
            rate_of=rates,
            graphs=problem.graphs,
            replicas=count,
        )
        chosen = choose(loads, strategies, problem.pinned)
        nodes = problem.cluster.node_of(np.arange(block))
        placed = place(loads, chosen.choices, problem.model.widths, nodes) if chosen is not None else None
        if placed is not None and any(table.placement is not Placement.REPLICATED for table in placed.tables):
            plans.append(replace(placed, replicas=count))
    return plans
