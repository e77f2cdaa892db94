"""Training strategies: one file and one `StrategySpec` each.

A strategy is written as its name with options behind it: `ps_sync+hot_rows=1000`, `row_all_to_all+look_ahead`.
"""

from __future__ import annotations

from functools import lru_cache

from dessim.errors import UsageError
from dessim.wording import choose_from
from dessim.workload.model import Model
from dessim.workload.options import Options, parse_options, split_options
from dessim.workload.plan import Plan
from dessim.workload.strategies.data_parallel import DATA_PARALLEL
from dessim.workload.strategies.des import DES_ALL_REDUCE, DES_REDUCE_SCATTER
from dessim.workload.strategies.ps import PS_SYNC
from dessim.workload.strategies.ps_async import PS_ASYNC
from dessim.workload.strategies.row_all_gather import ROW_ALL_GATHER
from dessim.workload.strategies.row_all_to_all import ROW_ALL_TO_ALL
from dessim.workload.strategies.sharded import MESH, ROW_WISE, TABLE_WISE
from dessim.workload.strategies.spec import StrategySpec

STRATEGIES: dict[str, StrategySpec] = {
    "des_all_reduce": DES_ALL_REDUCE,
    "des_reduce_scatter": DES_REDUCE_SCATTER,
    "mesh": MESH,
    "table_wise": TABLE_WISE,
    "row_wise": ROW_WISE,
    "row_all_to_all": ROW_ALL_TO_ALL,
    "row_all_gather": ROW_ALL_GATHER,
    "ps_sync": PS_SYNC,
    "ps_async": PS_ASYNC,
    "data_parallel": DATA_PARALLEL,
}


def find_spec(strategy: str) -> StrategySpec | None:
    """The spec of a strategy, with or without options behind its name; None if there is no such strategy."""
    name, _ = split_options(strategy)
    return STRATEGIES.get(name)


def spec_of(strategy: str) -> StrategySpec:
    """The spec of a strategy, with or without options behind its name. Raises UsageError if there is none."""
    spec = find_spec(strategy)
    if spec is None:
        name, _ = split_options(strategy)
        raise UsageError(f"unknown strategy {name!r}; {choose_from(name, STRATEGIES)}")
    return spec


def parse_strategy(text: str) -> tuple[str, Options]:
    """A strategy's name and its options. Raises UsageError for an option that it does not take."""
    name, _ = split_options(text)
    by_strategy = {spec.name: spec.options for spec in STRATEGIES.values() if spec.options}
    return name, parse_options(text, by_strategy)


# Projections at many scales, and every step of a search, ask for the same plans.
@lru_cache(maxsize=256)
def plan(strategy: str, model: Model) -> Plan:
    """The plan of a strategy, options behind its name, for `model`.

    Raises UsageError for an unknown strategy or option, or if the strategy cannot train the model.
    """
    name, options = parse_strategy(strategy)
    return spec_of(name).plan(model, options)
