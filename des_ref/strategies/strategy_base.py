"""The base class of strategies. By default, the hash of its id places a row, and replicas agree after every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from des_ref.comm import CodedComm, Comm
from des_ref.data.batch import Batch, slice_of
from des_ref.embedding.by_width import TablesByWidth
from des_ref.embedding.hash_table import RowTable
from des_ref.hashing import owner_of
from des_ref.models.build import Network
from des_ref.models.shampoo import NAME as SHAMPOO
from des_ref.models.shampoo import Shampoo
from des_ref.strategies.base import FIELD, Marks, NoMarks, Optimizers
from des_ref.strategies.dense_state import DenseState, export_network, load_network
from des_ref.strategies.grads import SummedGrads
from des_ref.strategies.staleness import StalenessStats
from dessim.trace.schema import Phase
from dessim.workload.coded_plan import coded
from dessim.workload.options import Options
from dessim.workload.plan import Plan
from dessim.workload.strategies import plan


def field_of_rows(count: int, inverse: Tensor, field: Tensor) -> Tensor:
    """int64 [count]: the field of each row, from the `field` [n] and row `inverse` [n] of each occurrence."""
    return field.new_zeros(count).scatter_(0, inverse, field)


class StrategyBase:
    """The parts of `Strategy` that most strategies share. A subclass adds `send`, `step`, `predict` and `op_vars`.

    A strategy that places rows by field overrides `owner`.
    """

    name: str
    rows_replicated = False
    placed_by_field = False
    shares_rows = False
    looks_ahead = False
    replica = 0
    _dense: torch.optim.Optimizer

    def __init__(self, network: Network, optimizers: Optimizers, comm: Comm, options: Options | None = None) -> None:
        self.network = network
        self.comm = comm
        self.options = replace(options or Options(), shampoo=optimizers.dense.name == SHAMPOO)
        self.plan = self._new_plan()
        if isinstance(comm, CodedComm):
            self.plan = coded(self.plan, network.model, comm.codecs)
        self.marks: Marks = NoMarks()
        self.value_bytes = network.dtype.itemsize
        self.table = self._new_table(optimizers, {FIELD: 1} if self.placed_by_field else {})
        self._rows = optimizers.rows
        self._step = 0

    def _new_plan(self) -> Plan:
        return plan(self.name + str(self.options), self.network.model)

    def _new_table(self, optimizers: Optimizers, extra_columns: Mapping[str, int]) -> RowTable | TablesByWidth:
        return self.network.new_table(optimizers.rows, optimizers.init_std, extra_columns, lifetime=optimizers.lifetime)

    # -- rows -----------------------------------------------------------------------------------------------------

    def owner(self, ids: Tensor, field: Tensor) -> Tensor:
        return owner_of(ids, self.comm.world_size)

    def owns(self, ids: Tensor, field: Tensor) -> Tensor:
        return self.owner(ids, field) == self.comm.rank

    def insert(self, ids: Tensor, field: Tensor) -> Tensor:
        return self.table.find_or_insert(ids)

    def attach(self, comm: Comm) -> None:
        return None

    def count(self, first: Callable[[], Iterable[Batch]]) -> None:
        return None

    def share(self, whole: Batch) -> Batch:
        return slice_of(whole, self.comm.rank, self.comm.world_size)

    def own_places(self, share: int) -> Tensor:
        """int64 [share]: the places in the global batch of this worker's samples, where they are consecutive."""
        first = self.comm.rank * share
        return torch.arange(first, first + share, device=self.network.device)

    def is_everywhere(self, ids: Tensor, field: Tensor) -> Tensor:
        return torch.full_like(ids, self.rows_replicated, dtype=torch.bool)

    def update_rows(self, rows: Tensor, grads: Mapping[str, Tensor]) -> None:
        """Step the optimizer of this step's `rows` [u], without those that have no row yet (-1), and end the step."""
        self.table.update(self._rows, rows, grads)
        self.table.end_step()

    def note_fields(self, rows: Tensor, inverse: Tensor, field: Tensor) -> None:
        """Store the field of each of `rows` [u], from the `field` [n] and row `inverse` [n] of each occurrence."""
        if self.placed_by_field:
            fields = field_of_rows(len(rows), inverse, field)
            self.table.write(FIELD, rows, fields[:, None].to(self.network.dtype))

    # -- replicated weights ---------------------------------------------------------------------------------------

    def train_dense(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the optimizer of replicated weights."""
        self._dense = optimizer
        if isinstance(optimizer, Shampoo):
            # The plan assumes that blocks divide evenly among workers; here the actual largest share is known.
            max_directions = float(optimizer.max_directions(self.comm.world_size))
            own_symbols = self.plan.own_symbols
            assert own_symbols is not None
            self.plan = replace(self.plan, own_symbols=lambda job: {**own_symbols(job), "Y": max_directions})

    def step_dense(self, *summed: SummedGrads) -> None:
        """Wait for the gradients of replicated weights, and step their optimizer."""
        for gradients in summed:
            gradients.wait()
        if not isinstance(self._dense, Shampoo):
            with self.marks.segment("update_dense", Phase.OPTIMIZER):
                for gradients in summed:
                    gradients.unpack()
                self._dense.step()
            return
        n = self.comm.world_size
        with self.marks.segment("precondition", Phase.OPTIMIZER):
            for gradients in summed:
                gradients.unpack()
            mine = self._dense.directions(self.comm.rank, n)
        whole = mine.new_empty(n * len(mine))
        self.comm.all_gather("directions", whole, mine).wait()
        with self.marks.segment("update_dense", Phase.OPTIMIZER):
            self._dense.apply(whole.view(n, -1))

    def settle(self) -> None:
        return None

    def dense_state(self) -> DenseState:
        return export_network(self.network, self._dense, self.comm)

    def load_dense(self, state: DenseState, step: int) -> None:
        load_network(self.network, self._dense, state)
        self._step = step

    def close(self) -> StalenessStats | None:
        return None
