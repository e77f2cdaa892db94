"""How a step runs on N workers: each file executes the plan of the same name in dessim/workload/strategies."""

from __future__ import annotations

from collections.abc import Callable

from des_ref.comm import Comm
from des_ref.models.build import Network
from des_ref.strategies.base import Optimizers, Strategy
from des_ref.strategies.data_parallel import DataParallel
from des_ref.strategies.des import DesAllReduce, DesReduceScatter
from des_ref.strategies.ps import PsSync
from des_ref.strategies.ps_async import PsAsync
from des_ref.strategies.sharded import Mesh, RowAllToAll, RowWise, TableWise
from dessim.errors import UsageError

STRATEGIES: dict[str, Callable[[Network, Optimizers, Comm], Strategy]] = {
    "des_all_reduce": DesAllReduce,
    "des_reduce_scatter": DesReduceScatter,
    "mesh": Mesh,
    "table_wise": TableWise,
    "row_wise": RowWise,
    "row_all_to_all": RowAllToAll,
    "ps_sync": PsSync,
    "ps_async": PsAsync,
    "data_parallel": DataParallel,
}


def check_strategy(name: str) -> None:
    """Raises UsageError for a strategy that the trainer does not run."""
    if name not in STRATEGIES:
        raise UsageError(f"unknown strategy {name!r}; the trainer runs {', '.join(STRATEGIES)}")
