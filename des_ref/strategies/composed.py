"""Groups of tables, each trained by its own strategy, executed: the plan of dessim/workload/composed.py, op by op.

    for each group   ids -> rows or pooled bags at their samples
    for all          bags [b, F, W + E] -> dense_forward -> dense_backward -> dense_grad
    for each group   gradients of its bags -> update_rows

The strategies are those that train a whole model, each on the fields of its group (table_group.py). One group works
after the other, while the gradients of all groups' bags and of the dense part travel together.

All rows are in one table. The plan names owners of rows, so a checkpoint fits only a plan with the same
tables and number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from des_ref.comm import Comm
from des_ref.data.batch import Batch
from des_ref.models.build import Network
from des_ref.models.shampoo import NAME as SHAMPOO
from des_ref.strategies.base import Counts, Lane, Optimizers
from des_ref.strategies.data_parallel import DataParallel
from des_ref.strategies.row_all_to_all import RowAllToAll
from des_ref.strategies.sharded import RowWise, TableWise
from des_ref.strategies.sharded_base import RowGradients, ShardedBase
from des_ref.strategies.table_group import GroupComm, GroupMarks, GroupNetwork
from des_ref.substitution.owned import stable_order
from des_ref.substitution.sums import tally
from dessim.errors import UsageError
from dessim.trace.schema import Phase
from dessim.workload.composed import TablePlan, compose
from dessim.workload.plan import Plan, TableGroup

_WITHOUT_OWNERS = {"row_wise": RowWise, "row_all_to_all": RowAllToAll, "data_parallel": DataParallel}


@dataclass(frozen=True, slots=True)
class _Group:
    """A group of `fields`, int64 [f], ascending, and the strategy of its rows, whose own dense part is not used."""

    planned: TableGroup
    fields: Tensor
    strategy: ShardedBase


@dataclass(frozen=True, slots=True)
class _OfGroup:
    """A group's samples, with the numbers of its own fields, and what its strategy sent or fetched for them."""

    batch: Batch
    result: Any


@dataclass(frozen=True, slots=True)
class _AllGradients(RowGradients):
    """The gradients of all rows that this worker updates, and those of each group."""

    groups: tuple[RowGradients, ...]


class Composed(ShardedBase):
    """A strategy for each group of `tables`, and one dense part.

    Raises UsageError for shampoo.
    """

    name = "composed"

    def __init__(self, network: Network, optimizers: Optimizers, comm: Comm, tables: Sequence[TablePlan]) -> None:
        if optimizers.dense.name == SHAMPOO:
            raise UsageError("a plan of groups of tables has no shampoo: use Adam, or one strategy for all tables")
        assert all(len(table.ranks) <= 1 for table in tables), "planned.py refuses columns of several owners"
        self._tables = tables
        super().__init__(network, optimizers, comm)
        device = network.device
        self._groups = [self._new_group(planned, optimizers) for planned in self.plan.groups]
        of_field = [[g.planned.name for g in self._groups].index(table.strategy) for table in tables]
        self._group_of_field = torch.tensor(of_field, device=device)
        self._number_in_group = torch.tensor([of_field[:f].count(g) for f, g in enumerate(of_field)], device=device)
        self._place_of_field = torch.cat([group.fields for group in self._groups]).argsort()
        # The worker that the plan names, -1 where a hash of the id does.
        self._owner_of_field = torch.tensor([table.ranks[0] if table.ranks else -1 for table in tables], device=device)
        replicated = [group.strategy.rows_replicated for group in self._groups]
        self._is_replicated = torch.tensor([replicated[group] for group in of_field], device=device)

    def _new_plan(self) -> Plan:
        return compose(self.network.model, self._tables)

    def _new_group(self, planned: TableGroup, optimizers: Optimizers) -> _Group:
        numbers = [shard.table for shard in planned.shards]
        fields = torch.tensor(numbers, device=self.network.device)
        arguments = GroupNetwork(self.network, fields, self.table), optimizers, GroupComm(self.comm, planned.name)
        if planned.name == TableWise.name:
            strategy = TableWise(*arguments, owners=[self._tables[number].ranks[0] for number in numbers])
        else:
            strategy = _WITHOUT_OWNERS[planned.name](*arguments)
        strategy.placed_by_field = False  # the table has no column for fields
        strategy.marks = GroupMarks(lambda: self.marks, planned.name)
        return _Group(planned, fields, strategy)

    # -- rows -----------------------------------------------------------------------------------------------------

    def owner(self, ids: Tensor, field: Tensor) -> Tensor:
        named = self._owner_of_field.to(field.device)[field]
        return torch.where(named < 0, super().owner(ids, field), named)

    def is_everywhere(self, ids: Tensor, field: Tensor) -> Tensor:
        return self._is_replicated.to(field.device)[field]

    # -- each group in turn ---------------------------------------------------------------------------------------

    def _samples_of_groups(self, batch: Batch) -> list[Batch]:
        """The batch with the ids of each group only."""
        group = self._group_of_field[batch.field]
        sizes = tally(group, len(self._groups)).tolist()
        number = self._number_in_group[batch.field]
        return [
            replace(batch, ids=batch.ids[places], sample=batch.sample[places], field=number[places])
            for places in stable_order(group).split(sizes)
        ]

    def _send_ids(self, batch: Batch, lane: Lane) -> list[_OfGroup]:
        sent = []
        for group, own in zip(self._groups, self._samples_of_groups(batch), strict=True):
            name = group.planned.name
            of_group = Lane(GroupComm(lane.comm, name), GroupMarks(lambda: lane.marks, name))
            sent.append(_OfGroup(own, group.strategy._send_ids(own, of_group)))
        return sent

    def _fetch(self, batch: Batch, ids: list[_OfGroup], train: bool) -> list[_OfGroup]:
        return [
            _OfGroup(sent.batch, group.strategy._fetch(sent.batch, sent.result, train))
            for group, sent in zip(self._groups, ids, strict=True)
        ]

    def _bags(self, fetched: list[_OfGroup]) -> Tensor:
        bags = [group.strategy._bags(own.result) for group, own in zip(self._groups, fetched, strict=True)]
        return torch.cat(bags, dim=1).index_select(1, self._place_of_field)

    def _learn(self, fetched: list[_OfGroup], grad: Tensor) -> tuple[RowGradients, dict[str, Tensor]]:
        sent = [group.strategy._send_back(grad.index_select(1, group.fields)) for group in self._groups]
        dense = self._send_dense_grads()
        found = []
        for group, own, (grad_at_owner, ready) in zip(self._groups, fetched, sent, strict=True):
            if ready is not None:
                ready.wait()
            found.append(group.strategy._row_grads(own.result, grad_at_owner))
        for group, own_grads in zip(self._groups, found, strict=True):
            with group.strategy.marks.segment("update_rows", Phase.OPTIMIZER):
                self.table.update(self._rows, own_grads.rows, self._by_column(own_grads.grad))
        self.table.end_step()
        self._step_dense(dense)
        rows, ids, grads = (torch.cat([getattr(own, name) for own in found]) for name in ("rows", "ids", "grad"))
        return _AllGradients(rows, ids, grads, tuple(found)), self._by_column(grads)

    # -- sizes ----------------------------------------------------------------------------------------------------

    def _counts(self, batch: Batch, fetched: list[_OfGroup], row_grads: RowGradients) -> Counts:
        assert isinstance(row_grads, _AllGradients)
        return Counts.of_groups(
            [
                group.strategy._counts(own.batch, own.result, own_grads)
                for group, own, own_grads in zip(self._groups, fetched, row_grads.groups, strict=True)
            ]
        )

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        found = {}
        of_groups = counts.groups or (Counts(0),) * len(self._groups)  # no step yet
        for group, own in zip(self._groups, of_groups, strict=True):
            planned = group.planned
            for op, symbols in group.strategy.op_vars(own, samples).items():
                found[f"{op}.{planned.name}"] = {planned.symbol(name): value for name, value in symbols.items()}
        return found
