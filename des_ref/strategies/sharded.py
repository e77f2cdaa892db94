"""Baselines that move pooled bags, executed: the plans of dessim/workload/strategies/sharded.py, op by op.

    table_wise      lengths, ids -> lookup -> pool -> pooled (all_to_all) | pooled_grad (all_to_all) -> scatter_grad
    row_wise        id_counts, ids -> lookup -> pool -> pooled (reduce_scatter) | pooled_grad (all_gather) -> ...
    mesh            the same, but pooled is all_reduced and the dense part runs replicated: nothing is sent back

The owners of rows pool them into bags and send these: the W floats of a row and the E floats that operators need of
each id, summed over the ids of one field of one sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from des_ref.comm import Comm, Handle
from des_ref.data.batch import Batch
from des_ref.embedding.by_width import TablesByWidth
from des_ref.embedding.spilt_rows import SpiltMoves
from des_ref.embedding.widths import message_sizes, new_message, packed, unpacked
from des_ref.models.build import Network
from des_ref.strategies.base import Counts, Lane, Optimizers
from des_ref.strategies.exchange import (
    TableOwners,
    gather_dense,
    send_occurrences,
    send_tables,
    unpack_occurrences,
)
from des_ref.strategies.grads import SummedGrads
from des_ref.strategies.in_turn import Part
from des_ref.strategies.sharded_base import RowGradients, ShardedBase
from des_ref.strategies.strategy_base import field_of_rows
from dessim.trace.schema import Phase
from dessim.workload.options import Options


@dataclass(frozen=True, slots=True, kw_only=True)
class _PooledByOwner:
    """Owned rows, and the bags that this worker pooled from them.

    unique, rows  int64 [u], distinct owned ids and their row numbers (None in prediction)
    values        [u, W], the leaf of the graph that computes `pooled` [bags, W + E]
    received      the bags of this worker's samples, pooled by all owners
    occurrences   number of occurrences of owned ids over the global batch
    moves         the copies between the host's memory and the caches of spilt tables
    """

    unique: Tensor
    rows: Tensor | None
    values: Tensor
    pooled: Tensor
    received: Tensor
    occurrences: int
    moves: SpiltMoves


class OwnerPooled(ShardedBase):
    """A strategy whose owners pool rows and send bags.

    In a composed plan, `stores` int64 [F] has the store of each table's rows (embedding/by_width.py). If rows of a
    table are spilt, `spilt` has the stores of this worker's spilt tables; a step first copies the rows that it needs
    into their caches:

        find -> rows_out -> rows_in -> lookup
    """

    stores: Tensor | None = None
    spilt: Sequence[int] | None = None

    def _send_ids(self, batch: Batch, lane: Lane) -> Any:
        return send_occurrences(batch, self.owner, lane, self.network.fields)

    def _occurrences(self, sent: Any, samples: int) -> tuple[Tensor, Tensor, Tensor]:
        """The distinct owned ids [u]; for each occurrence [n], which of them it is and its bag."""
        unique, owned = unpack_occurrences(sent, samples, self.network.fields)
        return unique, owned.inverse, owned.bag

    def _columns(self, samples: int) -> Tensor | None:
        """bool [bags, W + E]: the columns of the bags that this worker pools, where tables differ in width."""
        bags = torch.arange(self._number_of_bags(samples), device=self.network.device)
        return self.network.bags_have_columns(self._fields(bags, samples))

    def _columns_at_samples(self, samples: int) -> Tensor | None:
        """bool [b * F, W + E]: those of the bags of b samples, sample by sample."""
        fields = torch.arange(self.network.fields, device=self.network.device)
        return self.network.bags_have_columns(fields.repeat(samples))

    def _number_of_bags(self, samples: int) -> int:
        """The number of bags that this worker pools for."""
        return samples * self.network.fields

    def _fields(self, bag: Tensor, samples: int) -> Tensor:
        """The field of each `bag` [n]."""
        return bag % self.network.fields

    def _stores(self, count: int, index: Tensor, field: Tensor) -> tuple[Tensor, ...]:
        """The stores of `count` rows, as `_values` takes them, from the row and the field of each occurrence [n]."""
        return () if self.stores is None else (self.stores[field_of_rows(count, index, field)],)

    def _found(self, unique: Tensor, *stores: Tensor) -> tuple[Tensor, SpiltMoves]:
        """Row numbers of the distinct ids [u] of a step, and the copies that it needs."""
        rows = self.table.find_or_insert(unique, *stores)
        if isinstance(self.table, TablesByWidth) and self.spilt:
            return rows, self.table.plan_moves(rows, self.spilt)
        return rows, SpiltMoves()  # this worker has none of the spilt tables

    def _copied(self, unique: Tensor, rows: Tensor, moves: SpiltMoves) -> Tensor:
        """The values [u, W] of these rows, after the copies."""
        with self.marks.copy("rows_out", Phase.FORWARD, moves.out.all_floats * self.value_bytes):
            moves.write_back()
        with self.marks.copy("rows_in", Phase.FORWARD, moves.into.all_floats * self.value_bytes):
            moves.fill()
        with self.marks.segment("lookup", Phase.FORWARD):
            return torch.cat(list(self.table.values(unique, rows, tuple(self.network.row_widths)).values()), dim=1)

    def _deliver(self, pooled: Tensor, samples: int) -> Part[Tensor]:
        """Send the bags where they are needed, in the collective `pooled`."""
        raise NotImplementedError

    def _fetch(self, batch: Batch, ids: Any, train: bool) -> Part[_PooledByOwner]:
        samples = len(batch) * self.comm.world_size
        moves = None
        is_spilt = train and self.spilt is not None
        with self.marks.segment("find" if is_spilt else "lookup", Phase.FORWARD):
            unique, index, bag = self._occurrences(ids, samples)
            field = self._fields(bag, samples)
            stores = self._stores(len(unique), index, field)
            if is_spilt:
                rows, moves = self._found(unique, *stores)
            else:
                rows, values = self._values(unique, train, *stores)
            if rows is not None:
                self.note_fields(rows, index, field)
        if moves is not None:
            values = self._copied(unique, rows, moves)
        with self.marks.segment("pool", Phase.FORWARD):
            values.requires_grad_(train)
            pooled = self._pooled(values, index, bag, self._number_of_bags(samples))
        received = yield from self._deliver(pooled.detach(), samples)
        return _PooledByOwner(
            unique=unique,
            rows=rows,
            values=values,
            pooled=pooled,
            received=received,
            occurrences=len(index),
            moves=moves or SpiltMoves(),
        )

    def _bags(self, fetched: _PooledByOwner) -> Tensor:
        return fetched.received.view(-1, self.network.fields, self.network.bag_width)

    def _row_grads(self, fetched: _PooledByOwner, grad: Tensor) -> Part[RowGradients]:
        with self.marks.segment("scatter_grad", Phase.BACKWARD):
            samples = len(fetched.pooled) // max(self._number_of_bags(1), 1)
            fetched.pooled.backward(unpacked(grad, self._columns(samples)).reshape(fetched.pooled.shape))
        assert fetched.rows is not None
        yield from ()  # no message
        return RowGradients(fetched.rows, fetched.unique, fetched.values.grad)

    def _counts(self, batch: Batch, fetched: _PooledByOwner, row_grads: RowGradients) -> Counts:
        out = fetched.moves.out
        into = fetched.moves.into
        return Counts(
            ids_sent=len(batch.ids),
            ids_owned=fetched.occurrences,
            rows=len(row_grads.rows),
            cache_misses=into.rows,
            cache_evictions=out.rows,
            missed_floats=into.floats,
            missed_state=into.state,
            evicted_floats=out.floats,
            evicted_state=out.state,
        )

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        n = self.comm.world_size
        sent = {"m": counts.ids_sent * n / samples}
        # This worker's sizes, scaled to the means that the formulas expect: B m / N ids, U / N rows.
        owned = {"m": counts.ids_owned * n / samples, "U": float(counts.rows * n)} | self._table_symbols()
        names = ("lookup", "pool", "pooled", "scatter_grad", "update_rows")
        symbols = {"split_ids": sent, "ids": sent} | dict.fromkeys(names, owned)
        if self.spilt is not None:
            symbols |= {
                "find": owned,
                "rows_in": {"MW": float(counts.missed_floats), "MO": float(counts.missed_state)},
                "rows_out": {"MW": float(counts.evicted_floats), "MO": float(counts.evicted_state)},
            }
        return symbols

    def _table_symbols(self) -> dict[str, float]:
        return {}


class NamedOwners(OwnerPooled):
    """Each table has a named owner: a worker, or in table_row_wise.py a server."""

    def _place(self, owners: TableOwners, own: int) -> None:
        """Tables are at `owners`. This worker is owner number `own`, or belongs to it where owners are servers."""
        self._owners = owners
        self._own_fields = owners.fields(own)
        self._own_tables = len(self._own_fields)

    def _table_symbols(self) -> dict[str, float]:
        symbols = {"F": float(self._own_tables * len(self._owners.counts))}
        has = self.network.bags_have_columns(self._own_fields)
        if has is not None and self._own_tables:
            symbols["WF"] = float(has.sum()) / self._own_tables - self.network.model.bag_floats
        return symbols

    def _number_of_bags(self, samples: int) -> int:
        return samples * self._own_tables

    def _splits(self, samples: int) -> tuple[list[int], list[int]]:
        """The numbers of bags that this worker sends to each worker of its AllToAll, and receives from each."""
        share = samples // self.comm.world_size
        counts = self._owners.counts
        return [self._own_tables * share] * len(counts), [tables * share for tables in counts]


class TableWise(NamedOwners):
    """Each table is on one worker: table f on rank `owners[f]`, by default on rank f mod N."""

    name = "table_wise"
    placed_by_field = True

    def __init__(
        self,
        network: Network,
        optimizers: Optimizers,
        comm: Comm,
        options: Options | None = None,
        owners: Sequence[int] | None = None,
    ) -> None:
        super().__init__(network, optimizers, comm, options)
        n = comm.world_size
        if owners is None:
            self._place(TableOwners.in_turn(network.fields, n, network.device), comm.rank)
        else:
            self._place(TableOwners.of(owners, n, network.device), comm.rank)

    def owner(self, ids: Tensor, field: Tensor) -> Tensor:
        return self._owners.owner.to(field.device)[field]

    def _send_ids(self, batch: Batch, lane: Lane) -> Any:
        return send_tables(batch, lane, self._owners)

    def _occurrences(self, sent: Any, samples: int) -> tuple[Tensor, Tensor, Tensor]:
        unique, index = torch.unique(sent.ids, return_inverse=True)
        return unique, index, sent.bag

    def _fields(self, bag: Tensor, samples: int) -> Tensor:
        table = torch.div(bag, samples // self.comm.world_size, rounding_mode="floor") % max(self._own_tables, 1)
        return self._own_fields[table]

    def _columns_received(self, share: int) -> Tensor | None:
        """bool [F * share, W + E]: the columns of the bags of this worker's samples, as they arrive."""
        return self.network.bags_have_columns(self._owners.order.repeat_interleave(share))

    def _deliver(self, pooled: Tensor, samples: int) -> Part[Tensor]:
        to_send, to_receive = self._splits(samples)
        sent = self._columns(samples)
        has = self._columns_received(samples // self.comm.world_size)
        received = new_message(pooled, sum(to_receive), has)
        sizes = message_sizes(to_receive, has), message_sizes(to_send, sent)
        yield self.comm.all_to_all("pooled", received, packed(pooled, sent), *sizes)
        return unpacked(received, has)

    def _bags(self, fetched: _PooledByOwner) -> Tensor:
        """[b, F, W + E], from bags that arrive rank by rank and table by table."""
        by_table = fetched.received.view(self.network.fields, -1, self.network.bag_width)  # [F, b, W + E]
        place = self._owners.place
        return by_table[place].transpose(0, 1)

    def _send_back(self, grad: Tensor) -> tuple[Tensor, Handle | None]:
        by_table = grad.transpose(0, 1)[self._owners.order]
        samples = len(grad) * self.comm.world_size
        to_receive, to_send = self._splits(samples)
        rows = by_table.reshape(-1, grad.shape[2])
        received_columns = self._columns(samples)
        sent = self._columns_received(len(grad))
        received = new_message(rows, sum(to_receive), received_columns)
        sizes = message_sizes(to_receive, received_columns), message_sizes(to_send, sent)
        return received, self.comm.all_to_all("pooled_grad", received, packed(rows, sent), *sizes)


class RowWise(OwnerPooled):
    """The rows of every table are spread by hash: each worker pools what it owns of every bag."""

    name = "row_wise"

    def _deliver(self, pooled: Tensor, samples: int) -> Part[Tensor]:
        has = self._columns_at_samples(samples // self.comm.world_size)
        own = new_message(pooled, len(pooled) // self.comm.world_size, has)
        yield self.comm.reduce_scatter("pooled", own, packed(pooled, self._columns(samples)))
        return unpacked(own, has)

    def _send_back(self, grad: Tensor) -> tuple[Tensor, Handle | None]:
        message = packed(grad.reshape(-1, grad.shape[2]), self._columns_at_samples(len(grad)))
        whole = message.new_empty(len(message) * self.comm.world_size, *message.shape[1:])
        return whole, self.comm.all_gather("pooled_grad", whole, message)


class Mesh(OwnerPooled):
    """The pooled bags are all-reduced and the dense part is replicated, so every worker has its whole gradients."""

    name = "mesh"
    loss_is_share = False

    def _deliver(self, pooled: Tensor, samples: int) -> Part[Tensor]:
        has = self._columns(samples)
        message = packed(pooled, has)
        yield self.comm.all_reduce("pooled", message)
        return unpacked(message, has)

    def _send_back(self, grad: Tensor) -> tuple[Tensor, Handle | None]:
        return packed(grad.reshape(-1, grad.shape[2]), self._columns(len(grad))), None

    def _labels(self, batch: Batch, comm: Comm) -> tuple[Tensor, Handle | None]:
        labels = batch.labels.new_empty(len(batch) * comm.world_size)
        return labels, comm.all_gather("labels", labels, batch.labels)

    def _dense_features(self, batch: Batch, comm: Comm) -> tuple[Tensor | None, Handle | None]:
        return gather_dense(batch, comm)

    def _masks(self, batch: Batch) -> list[Tensor] | None:
        places = torch.arange(len(batch) * self.comm.world_size, device=self.network.device)
        return self.network.masks(places, self._step)

    def _send_dense_grads(self) -> SummedGrads:
        return SummedGrads(())

    def _gather_logits(self, logits: Tensor, samples: int) -> Tensor:
        return logits
