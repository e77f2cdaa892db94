"""Tables whose rows are spilt to the host's memory, as choices of the planner.

Spilling a table frees memory of GPUs, and costs copies of the rows that miss the cache. By itself it makes no step
faster, so it is tried only where memory is short: where no plan fits, some choice does not fit a GPU, or the best plan
fills a GPU to more than half. The program (`choose`) then weighs the seconds of each table's misses against the bytes
that spilling it frees, together with all other choices. Large tables with few new ids in each step are spilt first.

A cache holds the distinct rows of the last 2, 8, 32 ... 2,048 steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dessim.cluster import Cluster
from dessim.commands.support.step import to_host
from dessim.errors import UsageError
from dessim.plan.choose import least_memory
from dessim.plan.limits import MAX_TABLES_IN_FULL
from dessim.plan.loads import COMPUTE, MEMORY, Choice, Load, Loads
from dessim.plan.place import Placed
from dessim.workload.ids import IdLaw
from dessim.workload.model import Model
from dessim.workload.plan import Placement
from dessim.workload.spilt import SLOT, SLOT_OF_ROW, SPILLABLE
from dessim.workload.symbol_values import floats_of

_STEPS = (2, 8, 32, 128, 512, 2048)
_STEPS_IF_MANY_TABLES = (2, 32, 512)
"""The steps whose rows a cache holds."""
_LEAST_FREED = 0.1
"""The share of a table's bytes that spilling it must free."""
_SHORT_FILL = 0.5
"""The share of a GPU's memory above which memory is short."""


def to_host_of(cluster: Cluster, gpus: int) -> float | None:
    """Bytes/s between each GPU and its host's memory; None where the cluster does not say."""
    try:
        return to_host(cluster, gpus, "spilt tables")
    except UsageError:
        return None


def memory_is_short(loads: Loads, placed: Sequence[Placed]) -> bool:
    """Whether some choice does not fit a GPU, or the best of `placed` fills one to more than half."""
    best = min(placed, key=lambda one: one.seconds)
    if best.loads[:, MEMORY].max() > _SHORT_FILL * loads.room:
        return True
    return any(
        load is not None and least_memory(loads, choice, load) > loads.room
        for choice, of_tables in loads.by_choice.items()
        if choice.strategy in SPILLABLE
        for load in of_tables
    )


def memory_of_hosts(cluster: Cluster, gpus: int) -> float:
    """Bytes of the memory of the hosts of the first `gpus` GPUs; infinite where one does not say."""
    total = 0.0
    for kind, rows in cluster.wiring.by_kind(np.arange(gpus)):
        hosts = len(np.unique(cluster.node_of(rows)))
        total += math.inf if kind.node.host_memory is None else hosts * kind.node.host_memory
    return total


def with_caches(
    loads: Loads, model: Model, symbols: Mapping[str, float], bandwidth: float, host_room: float = math.inf
) -> Loads:
    """The loads with those of spilt tables.

    `bandwidth` [bytes/s] is that to the host's memory in each direction, `host_room` [bytes] the memory of all hosts.
    """
    by_choice = dict(loads.by_choice)
    shares = dict(loads.shares)
    draws = symbols["B"] * symbols["m"]
    laws = [(law, draws * share) for law, share, _ in model.law.tables()]
    for choice, of_tables in loads.by_choice.items():
        if choice.strategy not in SPILLABLE:
            continue
        owners = _owners_of_rows(choice, loads.workers)
        floats = floats_of(model, [width // choice.column_parts for width in model.widths])
        row_bytes = floats["W"] * symbols["sr"] + floats["O"] * symbols["so"]
        for steps in _STEPS if loads.tables <= MAX_TABLES_IN_FULL else _STEPS_IF_MANY_TABLES:
            spilt = replace(choice, cache=steps)
            by_choice[spilt] = tuple(
                None
                if load is None
                else _spilt(
                    load,
                    choice,
                    law,
                    draws=of_step,
                    steps=steps,
                    owners=owners,
                    row_bytes=float(size),
                    bandwidth=bandwidth,
                )
                for load, (law, of_step), size in zip(of_tables, laws, row_bytes, strict=True)
            )
            if choice in shares:
                shares[spilt] = shares[choice]
    return replace(loads, by_choice=by_choice, shares=shares, host_room=host_room)


def _owners_of_rows(choice: Choice, workers: int) -> int:
    """The number of workers over which the rows of a table, or of one part of it, are spread."""
    match choice.placement:
        case Placement.TABLES:
            return 1
        case Placement.SERVERS:
            return choice.parts
    return workers


def _spilt(
    load: Load,
    choice: Choice,
    law: IdLaw,
    *,
    draws: float,
    steps: int,
    owners: int,
    row_bytes: float,
    bandwidth: float,
) -> Load | None:
    """The load of a table on each of its `owners` if these cache the rows of the last `steps` steps.

    `draws`: the ids of a step. None if that frees too little memory.
    """
    cached = round(law.unique(steps * draws) / owners)
    rows = law.vocabulary / owners
    kept = cached * (row_bytes + SLOT) + rows * SLOT_OF_ROW
    if kept > (1 - _LEAST_FREED) * rows * row_bytes or cached < 1:
        return None
    copied = 2 * (law.unique((steps + 1) * draws) - law.unique(steps * draws)) / owners * row_bytes  # out, and in
    changed = load.owned.copy() if choice.is_placed else load.everywhere.copy()
    changed[MEMORY] += kept - rows * row_bytes + copied
    changed[COMPUTE] += copied / bandwidth
    everywhere, owned = (load.everywhere, changed) if choice.is_placed else (changed, load.owned)
    return Load(everywhere, owned, cached, law.vocabulary * row_bytes * choice.column_parts)
