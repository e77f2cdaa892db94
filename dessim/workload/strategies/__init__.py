"""Training strategies: a function each from a model to the plan of a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dessim.errors import UsageError
from dessim.workload.model import Model
from dessim.workload.operators import total
from dessim.workload.options import Options, parse_strategy
from dessim.workload.plan import Plan
from dessim.workload.strategies.data_parallel import data_parallel
from dessim.workload.strategies.des import des_all_reduce, des_reduce_scatter
from dessim.workload.strategies.ps import ps_sync
from dessim.workload.strategies.ps_async import ps_async
from dessim.workload.strategies.row_all_gather import row_all_gather
from dessim.workload.strategies.row_all_to_all import row_all_to_all
from dessim.workload.strategies.shampoo import with_shampoo
from dessim.workload.strategies.sharded import mesh, row_wise, table_wise

STRATEGIES: dict[str, Callable[[Model], Plan]] = {
    "des_all_reduce": des_all_reduce,
    "des_reduce_scatter": des_reduce_scatter,
    "mesh": mesh,
    "table_wise": table_wise,
    "row_wise": row_wise,
    "row_all_to_all": row_all_to_all,
    "row_all_gather": row_all_gather,
    "ps_sync": ps_sync,
    "ps_async": ps_async,
    "data_parallel": data_parallel,
}

# Those of them that take options (dessim.workload.options).
_OPTIONED: dict[str, Callable[[Model, Options], Plan]] = {
    "row_all_to_all": row_all_to_all,
    "row_all_gather": row_all_gather,
    "ps_sync": ps_sync,
}


def plan(strategy: str, model: Model) -> Plan:
    """The plan of `strategy` for `model`, options behind its name. Raises UsageError for one there is not."""
    name, options = parse_strategy(strategy)
    if name not in STRATEGIES:
        raise UsageError(f"unknown strategy {name!r}; choose from {', '.join(STRATEGIES)}")
    if model.pools_apart and not strategy.startswith("des_"):
        pooling = model.embedding.pooling
        raise UsageError(f'{strategy} moves sums of rows, {model.name} has pooling = "{pooling}": use a des_* strategy')
    if model.output is not None and not strategy.startswith("des_"):
        raise UsageError(
            f"{strategy} moves inputs to where their samples are, and {model.name} scores every sample against the "
            "rows of all ids in the global batch: use a des_* strategy"
        )
    if options.shampoo and name.startswith("des_") and total(model.costs, "owned_weights"):
        raise UsageError(f"{strategy}: weights of {model.name} live with their fields, and shampoo's are everywhere")
    of_rows = replace(options, shampoo=False)
    found = _OPTIONED[name](model, of_rows) if of_rows else STRATEGIES[name](model)
    return with_shampoo(found) if options.shampoo else found
