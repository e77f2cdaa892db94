"""Strategies: how a step runs on N workers.

Each file executes the plan of the same name in dessim/workload/strategies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from des_ref.comm import Comm, Encoding
from des_ref.models.build import Network
from des_ref.models.dense_optim import DenseOptimizer
from des_ref.models.shampoo import NAME as SHAMPOO
from des_ref.strategies.base import Optimizers, Strategy
from des_ref.strategies.composed import Composed, check_optimizers
from des_ref.strategies.data_parallel import DataParallel
from des_ref.strategies.des import DesAllReduce, DesReduceScatter
from des_ref.strategies.ps import PsSync
from des_ref.strategies.ps_async import PsAsync
from des_ref.strategies.row_all_gather import RowAllGather
from des_ref.strategies.row_all_to_all import RowAllToAll
from des_ref.strategies.sharded import Mesh, RowWise, TableWise
from dessim.errors import UsageError
from dessim.workload.composed import TablePlan, compose
from dessim.workload.options import Options
from dessim.workload.strategies import parse_strategy, plan

STRATEGIES: dict[str, Callable[[Network, Optimizers, Comm], Strategy]] = {
    "des_all_reduce": DesAllReduce,
    "des_reduce_scatter": DesReduceScatter,
    "mesh": Mesh,
    "table_wise": TableWise,
    "row_wise": RowWise,
    "row_all_to_all": RowAllToAll,
    "row_all_gather": RowAllGather,
    "ps_sync": PsSync,
    "ps_async": PsAsync,
    "data_parallel": DataParallel,
}
_WITH_OPTIONS: dict[str, Callable[[Network, Optimizers, Comm, Options], Strategy]] = {
    "row_all_to_all": RowAllToAll,
    "row_all_gather": RowAllGather,
    "ps_sync": PsSync,
}

# Strategies with options that the certificate and the tests run.
VARIANTS = (
    "row_all_to_all+hot_rows=20",
    "row_all_to_all+look_ahead",
    "row_all_gather+cache_rows=80",
    "ps_sync+hot_rows=20+look_ahead",
    "des_reduce_scatter+shampoo",
)


def check_strategy(text: str) -> None:
    """Raises UsageError for a strategy that the trainer does not run, or an option that the strategy does not have."""
    name, _ = parse_strategy(text)
    if name not in STRATEGIES:
        raise UsageError(f"unknown strategy {name!r}; the trainer runs {', '.join(STRATEGIES)}")


def build(
    text: str,
    network: Network,
    optimizers: Optimizers,
    comm: Comm,
    *,
    encoding: Encoding | None = None,
    tables: Sequence[TablePlan] = (),
    replicas: int = 1,
) -> Strategy:
    """The strategy named by `text` (`name+option+...`), or the one that trains each of `tables` as it says.

    Its values are encoded as `encoding` says. `replicas`: the number of blocks of workers that have all tables each.
    Raises UsageError.
    """
    if tables:
        check_optimizers(optimizers, replicas, tables)
    else:
        check_strategy(text)
    if encoding is not None and encoding.codecs:
        planned = compose(network.model, tables, replicas) if tables else plan(text, network.model)
        comm = encoding.around(comm, planned, network.model, network.dtype)
    if tables:
        return Composed(network, optimizers, comm, tables, replicas)
    name, options = parse_strategy(text)
    if options.shampoo:
        settings = {key: value for key, value in optimizers.dense.settings.items() if key == "lr"}
        optimizers = replace(optimizers, dense=DenseOptimizer(SHAMPOO, settings))
        options = replace(options, shampoo=False)
    if options:  # constructors of strategies without options do not take any
        return _WITH_OPTIONS[name](network, optimizers, comm, options)
    return STRATEGIES[name](network, optimizers, comm)
