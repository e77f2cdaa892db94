"""Plans with replicas of the tables: in blocks of GPUs, each of which has all tables (dessim.workload.replicas).

Replicas save messages over slow links, and cost memory and an exchange of gradients. They are simulated rank by rank,
so a search tries them only for jobs of up to 64 GPUs, unless the user names their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dessim.cluster import Gpu
from dessim.plan.candidates import Search
from dessim.plan.choose import choose
from dessim.plan.limits import MANY_GPUS, MANY_TABLES
from dessim.plan.loads import loads_of
from dessim.plan.place import Placed, place
from dessim.plan.rates import simulated_rates
from dessim.sim.fluid.route_cache import RouteCache

STRATEGIES = ("table_wise", "row_wise", "row_all_to_all", "data_parallel")
"""Those that tables may have in replicas."""


def numbers(asked: Search, server: int) -> Sequence[int]:
    """The numbers of replicas to try: those that the user names, or each that gives every block whole servers."""
    if asked.replicas is not None:
        return [count for count in asked.replicas if 1 < count <= asked.gpus and asked.gpus % count == 0]
    if not server or asked.gpus > MANY_GPUS or len(asked.model.widths) > MANY_TABLES or asked.by_table:
        return []
    return [count for count in range(2, asked.gpus // server + 1) if asked.gpus % (count * server) == 0]


def in_replicas(asked: Search, gpu: Gpu, routed: RouteCache, server: int) -> list[Placed]:
    """For each number of replicas the best plan by formula, where the memory of a block holds the tables."""
    strategies = [name for name in asked.strategies if name in STRATEGIES]
    symbols = asked.job.symbols(asked.gpus, asked.batch // asked.gpus)
    found = []
    for count in numbers(asked, server) if strategies and not asked.codecs else []:
        block = asked.gpus // count
        rates = simulated_rates(routed, asked.gpus, block)
        loads = loads_of(asked.model, symbols, gpu.shared_by(asked.gpus), rates, asked.graphs, replicas=count)
        chosen = choose(loads, strategies, asked.pinned)
        nodes = asked.cluster.node_of(np.arange(block))
        placed = place(loads, chosen.choices, asked.model.widths, nodes) if chosen is not None else None
        if placed is not None and any(table.strategy != "data_parallel" for table in placed.tables):
            found.append(replace(placed, replicas=count))
    return found
