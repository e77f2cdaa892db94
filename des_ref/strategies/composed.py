"""Groups of tables, each trained by its own strategy, executed: the plan of dessim/workload/composed.py, op by op.

    for each group   ids -> rows or pooled bags at their samples
    for all          bags [b, F, W + E] -> dense_forward -> dense_backward -> dense_grad
    for each group   gradients of its bags -> update_rows

The strategies are those that train a whole model, each on the fields of its group (table_group.py). They take turns:
while the messages of a group travel, another group computes (in_turn.py). Only their ids are sent one after the other.

A table whose columns have several owners counts as a table for each: its ids go to all of them, each stores and pools
its own columns only, and a bag at its sample is the concatenation of theirs. An optimizer that takes a mean over a row
(rowwise_adagrad) takes it over the columns of each owner, as TorchRec does.

All rows are in one table. The plan names owners of rows, so a checkpoint fits only a plan with the same
tables and number of workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from des_ref.comm import Comm, Handle
from des_ref.data.batch import Batch
from des_ref.embedding.by_width import ColumnRange, SpiltTable, TablesByWidth
from des_ref.embedding.hash_table import RowTable
from des_ref.embedding.lifetime import Lifetime
from des_ref.hashing import owner_of
from des_ref.models.build import Network
from des_ref.models.shampoo import NAME as SHAMPOO
from des_ref.strategies.base import Counts, Lane, Optimizers
from des_ref.strategies.data_parallel import DataParallel
from des_ref.strategies.in_turn import Part, in_turn
from des_ref.strategies.replicas import BlockGradients, op_vars, sum_over_replicas
from des_ref.strategies.row_all_to_all import RowAllToAll
from des_ref.strategies.sharded import OwnerPooled, RowWise, TableWise
from des_ref.strategies.sharded_base import RowGradients, ShardedBase
from des_ref.strategies.table_group import GroupComm, GroupMarks, GroupNetwork, is_whole
from des_ref.strategies.table_row_wise import ServerComms, TableRowWise
from des_ref.substitution.owned import stable_order
from des_ref.substitution.sums import tally
from dessim.errors import UsageError
from dessim.trace.schema import Phase
from dessim.workload.composed import TablePlan, compose
from dessim.workload.plan import Placement, Plan, Shard, TableGroup

_WITHOUT_OWNERS = {"row_wise": RowWise, "row_all_to_all": RowAllToAll, "data_parallel": DataParallel}


@dataclass(frozen=True, slots=True)
class _Group:
    """A group of tables, and the strategy that moves its rows; the dense part of that strategy is not used.

    `fields` int64 [shards], ascending: the table of each shard.
    """

    planned: TableGroup
    fields: Tensor
    strategy: ShardedBase


@dataclass(frozen=True, slots=True)
class _OfGroup:
    """A group's samples, with the numbers of its own shards, and what its strategy sent or fetched for them."""

    batch: Batch
    result: Any


@dataclass(frozen=True, slots=True)
class _AllGradients(RowGradients):
    """The gradients of all rows that this worker updates, and those of each group."""

    groups: tuple[BlockGradients, ...]


def check_optimizers(optimizers: Optimizers, replicas: int = 1, tables: Sequence[TablePlan] = ()) -> None:
    """Raises UsageError for optimizers and lifetimes of rows that a plan of groups of tables does not support."""
    if replicas > 1 and optimizers.lifetime != Lifetime():
        problem = "admit_after and expire_after count ids in each replica of the tables"
        raise UsageError(f"{problem}: leave them out, or plan again without --replicas")
    if any(table.cached_rows for table in tables) and optimizers.lifetime != Lifetime():
        raise UsageError("cached_rows needs rows that never expire: leave out admit_after and expire_after")
    if optimizers.dense.name == SHAMPOO:
        raise UsageError("a plan of groups of tables has no shampoo: use Adam, or one strategy for all tables")


def _row_grads(strategy: ShardedBase, fetched: Any, grad: Tensor, ready: Handle | None) -> Part[RowGradients]:
    """The gradients of a group's rows; `grad` is valid when `ready` is."""
    if ready is not None:
        yield ready
    return (yield from strategy._row_grads(fetched, grad))


class Composed(ShardedBase):
    """A strategy for each group of `tables`, which `compose` takes, and one dense part."""

    name = "composed"

    def __init__(
        self, network: Network, optimizers: Optimizers, comm: Comm, tables: Sequence[TablePlan], replicas: int = 1
    ) -> None:
        self._tables = tables
        self._replicas = replicas
        self._block = comm.world_size // replicas
        self.replica = comm.rank // self._block
        # This worker's block, and the workers with its place in all blocks, for each comm that is attached.
        self._parts: list[tuple[Comm, ServerComms]] = []
        super().__init__(network, optimizers, comm)
        self.attach(comm)
        self._groups = [self._new_group(planned, optimizers) for planned in self.plan.groups]
        of_field = [[g.planned.name for g in self._groups].index(table.strategy) for table in tables]
        numbers = [[shard.table for shard in group.planned.shards] for group in self._groups]
        self._group_of_field = self._by_field(of_field)
        self._first_in_group = self._by_field([numbers[group].index(f) for f, group in enumerate(of_field)])
        # The places of a table's shards among those of all groups.
        places: list[list[int]] = [[] for _ in tables]
        for place, number in enumerate(chain.from_iterable(numbers)):
            places[number].append(place)
        self._shards_of_field = self._by_field([len(of_table) for of_table in places])
        self._first_place = self._by_field([of_table[0] for of_table in places])
        self._further = [self._shards(places, part) for part in range(1, max(map(len, places)))]
        # The hash of its id names the worker of a row: a place counted from the first worker of its table.
        self._first_worker = self._by_field([min(table.ranks, default=0) for table in tables])
        self._hashed_among = self._by_field([len(table.ranks) or self._block for table in tables])
        self._is_placed = self._by_field([bool(table.columns) for table in tables])
        self._place = comm.rank % self._block
        self._is_own = self._by_field([self._place in table.ranks for table in tables])
        replicated = [group.strategy.rows_replicated for group in self._groups]
        self._is_replicated = self._by_field([replicated[group] for group in of_field])

    def _new_plan(self) -> Plan:
        return compose(self.network.model, self._tables, self._replicas)

    def attach(self, comm: Comm) -> None:
        if self._replicas > 1:
            self._parts.append((comm, ServerComms.of(comm, self._block)))

    def _parts_of(self, comm: Comm) -> ServerComms:
        return next(parts for whole, parts in self._parts if whole is comm)

    def _of_group(self, comm: Comm, planned: TableGroup) -> GroupComm:
        """The workers of `comm` with which a group of tables is trained: all of them, or those of this block."""
        return GroupComm(comm, planned.name, self._parts_of(comm).server if planned.replicas > 1 else None)

    def _new_table(self, optimizers: Optimizers, extra_columns: Mapping[str, int]) -> RowTable | TablesByWidth:
        """One for whole rows, one for each range of columns that this worker has of split tables, and one for each of
        its spilt tables."""
        own: dict[int, ColumnRange | SpiltTable] = {}
        for shard in (shard for group in self.plan.groups for shard in group.shards if self._is_here(group, shard)):
            part = self._range(shard)
            if shard.cached_rows:
                own[shard.table] = SpiltTable(shard.table, part, shard.cached_rows)
            elif not is_whole(self.network, shard):
                own[shard.table] = part
        table = self.network.new_table(
            optimizers.rows,
            optimizers.init_std,
            extra_columns,
            lifetime=optimizers.lifetime,
            ranges=sorted(dict.fromkeys(part for part in own.values() if isinstance(part, ColumnRange))),
            spilt=[part for part in own.values() if isinstance(part, SpiltTable)],
        )
        # Where the rows of each field are; -1: where the id says.
        self._store_of_field = None
        self._spilt_stores: dict[int, int] = {}
        if isinstance(table, TablesByWidth) and own:
            stores = [table.store_of(own[f]) if f in own else -1 for f in range(self.network.fields)]
            self._store_of_field = self._by_field(stores)
            self._spilt_stores = {f: stores[f] for f, part in own.items() if isinstance(part, SpiltTable)}
        return table

    def _is_here(self, group: TableGroup, shard: Shard) -> bool:
        """Whether this worker owns rows of a shard."""
        if shard.owner is None:
            return group.placement is Placement.HASH
        return shard.owner <= self.comm.rank < shard.owner + max(group.server, 1)

    def _range(self, shard: Shard) -> ColumnRange:
        return ColumnRange(self.network.model.widths[shard.table], shard.first, shard.columns)

    def _new_group(self, planned: TableGroup, optimizers: Optimizers) -> _Group:
        fields = torch.tensor([shard.table for shard in planned.shards], device=self.network.device)
        network = GroupNetwork(self.network, planned.shards, self.table)
        arguments = network, optimizers, self._of_group(self.comm, planned)
        owners = [shard.owner for shard in planned.shards]
        if planned.name == TableRowWise.name:
            strategy = TableRowWise(*arguments, owners, ServerComms.of(self.comm, planned.server))
        elif planned.name == TableWise.name:
            strategy = TableWise(*arguments, owners=owners)
        else:
            strategy = _WITHOUT_OWNERS[planned.name](*arguments)
        if isinstance(strategy, OwnerPooled):
            strategy.stores = None if self._store_of_field is None else self._store_of_field[fields]
            if planned.is_spilt:
                tables = dict.fromkeys(shard.table for shard in planned.shards)  # each once, also if it is split
                strategy.spilt = [self._spilt_stores[table] for table in tables if table in self._spilt_stores]
        strategy.placed_by_field = False  # the table has no column for fields
        strategy.marks = GroupMarks(lambda: self.marks, planned.name)
        return _Group(planned, fields, strategy)

    def _shards(self, places: Sequence[Sequence[int]], part: int) -> tuple[Tensor, Tensor]:
        """The fields whose tables have a shard number `part`, and the place of this shard; `places`: all shards'."""
        fields = [field for field, of_table in enumerate(places) if part < len(of_table)]
        return self._by_field(fields), self._by_field([places[field][part] for field in fields])

    def _by_field(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device=self.network.device)

    # -- rows -----------------------------------------------------------------------------------------------------

    def owns(self, ids: Tensor, field: Tensor) -> Tensor:
        by_field = self._first_worker, self._hashed_among, self._is_placed, self._is_own
        first, among, is_placed, is_own = (of_field.to(field.device)[field] for of_field in by_field)
        return torch.where(is_placed, is_own, first + owner_of(ids, among) == self._place)

    def insert(self, ids: Tensor, field: Tensor) -> Tensor:
        stores = self._store_of_field
        return self.table.find_or_insert(ids, *(() if stores is None else (stores[field],)))

    def is_everywhere(self, ids: Tensor, field: Tensor) -> Tensor:
        return self._is_replicated.to(field.device)[field]

    # -- each group in turn ---------------------------------------------------------------------------------------

    def _samples_of_groups(self, batch: Batch) -> list[Batch]:
        """The batch with the ids of each group only, each once for each shard of its table."""
        if self._further:
            batch, part = self._repeated(batch)
            number = self._first_in_group[batch.field] + part
        else:
            number = self._first_in_group[batch.field]
        group = self._group_of_field[batch.field]
        sizes = tally(group, len(self._groups)).tolist()
        return [
            replace(batch, ids=batch.ids[places], sample=batch.sample[places], field=number[places])
            for places in stable_order(group).split(sizes)
        ]

    def _repeated(self, batch: Batch) -> tuple[Batch, Tensor]:
        """The batch with each id once for each shard of its table, and the number of the shard among these."""
        shards = self._shards_of_field[batch.field]
        place = torch.repeat_interleave(shards)
        part = torch.arange(len(place), device=place.device) - (shards.cumsum(0) - shards)[place]
        again = replace(batch, ids=batch.ids[place], sample=batch.sample[place], field=batch.field[place])
        return again, part

    def _send_ids(self, batch: Batch, lane: Lane) -> list[_OfGroup]:
        sent = []
        for group, own in zip(self._groups, self._samples_of_groups(batch), strict=True):
            name = group.planned.name
            of_group = Lane(self._of_group(lane.comm, group.planned), GroupMarks(lambda: lane.marks, name))
            sent.append(_OfGroup(own, group.strategy._send_ids(own, of_group)))
        return sent

    def _fetch(self, batch: Batch, ids: list[_OfGroup], train: bool) -> Part[list[_OfGroup]]:
        parts = [
            group.strategy._fetch(sent.batch, sent.result, train) for group, sent in zip(self._groups, ids, strict=True)
        ]
        yield from ()  # in_turn waits for their messages
        return [_OfGroup(sent.batch, result) for sent, result in zip(ids, in_turn(parts), strict=True)]

    def _bags(self, fetched: list[_OfGroup]) -> Tensor:
        of_groups = [group.strategy._bags(own.result) for group, own in zip(self._groups, fetched, strict=True)]
        of_shards = torch.cat(of_groups, dim=1)
        bags = of_shards.index_select(1, self._first_place)
        for fields, places in self._further:
            # A column is in one shard of its table, and zero in the others: the sum is the concatenation.
            bags[:, fields] += of_shards[:, places]
        return bags

    def _learn(self, fetched: list[_OfGroup], grad: Tensor) -> tuple[RowGradients, dict[str, Tensor]]:
        sent = [group.strategy._send_back(grad.index_select(1, group.fields)) for group in self._groups]
        dense = self._send_dense_grads()
        block_grads = in_turn(
            [
                self._summed(group, _row_grads(group.strategy, own.result, *returned))
                for group, own, returned in zip(self._groups, fetched, sent, strict=True)
            ]
        )
        for group, own_grads in zip(self._groups, block_grads, strict=True):
            with group.strategy.marks.segment("update_rows", Phase.OPTIMIZER):
                self.table.update(self._rows, own_grads.summed.rows, self._by_column(own_grads.summed.grad))
        self.table.end_step()
        self._step_dense(dense)
        summed = [own.summed for own in block_grads]
        rows, ids, grads = (torch.cat([getattr(own, name) for own in summed]) for name in ("rows", "ids", "grad"))
        return _AllGradients(rows, ids, grads, tuple(block_grads)), self._by_column(grads)

    def _summed(self, group: _Group, own: Part[RowGradients]) -> Part[BlockGradients]:
        """The gradients of a group's rows, summed over the replicas."""
        grads = yield from own
        if group.planned.replicas == 1:
            return BlockGradients(grads)
        peers = GroupComm(self.comm, group.planned.name, self._parts_of(self.comm).between)
        joint = yield from sum_over_replicas(grads, peers, self.network, self.table, group.strategy.marks)
        return BlockGradients(grads, joint)

    # -- sizes ----------------------------------------------------------------------------------------------------

    def _counts(self, batch: Batch, fetched: list[_OfGroup], row_grads: RowGradients) -> Counts:
        assert isinstance(row_grads, _AllGradients)
        return Counts.of_groups(
            [
                own_grads.counted(group.strategy._counts(own.batch, own.result, own_grads.own), self.network)
                for group, own, own_grads in zip(self._groups, fetched, row_grads.groups, strict=True)
            ]
        )

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        by_op = {}
        of_groups = counts.groups or (Counts(0),) * len(self._groups)  # no step yet
        for group, own in zip(self._groups, of_groups, strict=True):
            planned = group.planned
            of_ops = group.strategy.op_vars(own, samples // planned.replicas)
            if planned.replicas > 1:
                of_ops |= op_vars(own, self._block)
            for op, symbols in of_ops.items():
                by_op[f"{op}.{planned.name}"] = {planned.symbol(name): value for name, value in symbols.items()}
        return by_op
