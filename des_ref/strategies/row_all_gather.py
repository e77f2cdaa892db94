"""Rows of the global batch on every worker, executed: dessim/workload/strategies/row_all_gather.py, op by op.

    split_ids -> id_counts, ids -> merge_ids -> row_counts, row_ids (all_gather) -> place_ids
    find -> (rows_out, rows_in) -> lookup -> rows (all_gather) -> pool -> dense part
    scatter_grad -> rows_grad (reduce_scatter) -> update_rows

all_gather and reduce_scatter need equal shares, so each owner pads its rows to the largest number of any owner; counts
are sent first, to identify the padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.comm import Comm
from des_ref.data.batch import Batch
from des_ref.embedding.cached_rows import CachedRows, CacheMoves
from des_ref.embedding.hash_table import RowTable
from des_ref.embedding.lifetime import Lifetime
from des_ref.embedding.widths import packed, unpacked
from des_ref.models.build import Network
from des_ref.strategies.base import Counts, Lane, Optimizers, mean_width
from des_ref.strategies.dense_state import DenseState
from des_ref.strategies.exchange import request_keys
from des_ref.strategies.in_turn import Part
from des_ref.strategies.padding import gather_ids, is_real, padded
from des_ref.strategies.sharded_base import RowGradients, ShardedBase
from dessim.errors import UsageError
from dessim.trace.schema import Phase
from dessim.workload.options import Options


@dataclass(frozen=True, slots=True)
class _GatheredIds:
    """The ids of the global batch, by owner; each owner has `most` lines, padding included.

    owned     int64 [r], the distinct ids that this worker owns
    index     int64 [n], the line of each occurrence among the N * most of all owners
    distinct  number of distinct ids of this worker's samples
    floats    those of the messages, where tables differ in width
    """

    owned: Tensor
    most: int
    index: Tensor
    distinct: int
    floats: _Floats | None


@dataclass(frozen=True, slots=True)
class _Floats:
    """The floats of messages whose rows differ in width; each owner sends `most`, padding included.

    own       bool [r, W], the columns of the rows that this worker owns; `count` of them
    columns   bool [N * most rows, W], those of each line's row, none of padding
    is_real   bool [N * most], the floats that are not padding
    """

    own: Tensor
    count: int
    columns: Tensor
    is_real: Tensor
    most: int

    @classmethod
    def of(cls, own: Tensor, columns: Tensor, owners: int) -> _Floats:
        counts = columns.view(owners, -1).sum(dim=1)
        count, most = torch.stack([own.sum(), counts.max()]).tolist()
        return cls(own, count, columns, is_real(counts, most), most)


@dataclass(frozen=True, slots=True)
class _GatheredRows:
    """The rows of the global batch, on every worker.

    rows     int64 [r], row numbers of `ids.owned`: in the table, or cache slots if there is a cache
    moves    the copies into and out of the cache, if there is one
    values   [N * most, W], the leaf of the graph that computes `pooled` [b * F, W + E]
    """

    ids: _GatheredIds
    rows: Tensor
    moves: CacheMoves | None
    values: Tensor
    pooled: Tensor


class RowAllGather(ShardedBase):
    """Each row of the batch is sent to all workers once; the sum of its gradients returns to its owner."""

    name = "row_all_gather"

    def __init__(self, network: Network, optimizers: Optimizers, comm: Comm, options: Options | None = None) -> None:
        super().__init__(network, optimizers, comm, options)
        capacity = self.options.cache_rows
        if capacity and optimizers.lifetime != Lifetime():
            raise UsageError("cache_rows needs rows that never expire: leave out admit_after and expire_after")
        self._cache = CachedRows(self.table, capacity, comm.device) if capacity else None

    def _new_table(self, optimizers: Optimizers, extra_columns: dict[str, int]) -> RowTable:
        device = "cpu" if self.options.cache_rows else None
        return self.network.new_table(
            optimizers.rows, optimizers.init_std, extra_columns, lifetime=optimizers.lifetime, device=device
        )

    def _send_ids(self, batch: Batch, lane: Lane) -> _GatheredIds:
        keys, requested = request_keys(batch.ids, lane, "ids")
        with lane.marks.segment("merge_ids", Phase.INPUT):
            owned = torch.unique(requested.keys)
        of_all = gather_ids(owned, lane.comm)
        with lane.marks.segment("place_ids", Phase.INPUT):
            line = of_all.is_real.nonzero().squeeze(1)
            ids, order = of_all.ids[line].sort()
            index = line[order[torch.searchsorted(ids, keys.unique)]][keys.inverse]
            own = self.network.has_columns(owned)
            columns = self.network.has_columns(of_all.ids)
            floats = None
            if own is not None and columns is not None:
                floats = _Floats.of(own, columns & of_all.is_real[:, None], lane.comm.world_size)
        return _GatheredIds(owned, of_all.most, index, len(keys.unique), floats)

    def _fetch(self, batch: Batch, ids: _GatheredIds, train: bool) -> Part[_GatheredRows]:
        mark = self.marks.segment
        moves = None
        if not train:
            _, own = self._values(ids.owned if self._cache is None else ids.owned.cpu(), train=False)
            rows = ids.owned  # not used in prediction
        elif self._cache is None:
            with mark("lookup", Phase.FORWARD):
                table_rows, own = self._values(ids.owned, train=True)
                assert table_rows is not None
                rows = table_rows
        else:
            rows, moves, own = self._from_cache(self._cache, ids.owned)
        whole = yield from self._gathered(ids, own.to(self.comm.device))
        with mark("pool", Phase.FORWARD):
            whole.requires_grad_(train)
            pooled = self._pooled_at_samples(whole, ids.index, batch)
        return _GatheredRows(ids, rows, moves, whole, pooled)

    def _gathered(self, ids: _GatheredIds, own: Tensor) -> Part[Tensor]:
        """[N * most, W]: the rows `own` [r, W] of every owner, by AllGather."""
        floats = ids.floats
        message = padded(own, ids.most) if floats is None else padded(packed(own, floats.own), floats.most)
        whole = message.new_empty(self.comm.world_size * len(message), *message.shape[1:])
        yield self.comm.all_gather("rows", whole, message)
        return whole if floats is None else unpacked(whole[floats.is_real], floats.columns)

    def _from_cache(self, cache: CachedRows, ids: Tensor) -> tuple[Tensor, CacheMoves, Tensor]:
        """Bring the rows of `ids` into the cache: their slots [r], the copies made, and their values [r, W]."""
        with self.marks.segment("find", Phase.FORWARD):
            rows = self.table.find_or_insert(ids.cpu())
            moves = cache.plan_moves(rows)
        with self.marks.copy("rows_out", Phase.FORWARD, len(moves.evicted) * cache.row_bytes):
            cache.write_back(moves)
        with self.marks.copy("rows_in", Phase.FORWARD, len(moves.missing) * cache.row_bytes):
            cache.load(moves)
        with self.marks.segment("lookup", Phase.FORWARD):
            slots = cache.slots(rows).to(ids.device)
            own = torch.cat([cache.columns[name][slots] for name in self.network.row_widths], dim=1)
        return slots, moves, own

    def _bags(self, fetched: _GatheredRows) -> Tensor:
        return fetched.pooled.view(-1, self.network.fields, self.network.bag_width)

    def _row_grads(self, fetched: _GatheredRows, grad: Tensor) -> Part[RowGradients]:
        ids = fetched.ids
        with self.marks.segment("scatter_grad", Phase.BACKWARD):
            fetched.pooled.backward(grad.view(fetched.pooled.shape))
        floats = ids.floats
        message = fetched.values.grad
        if floats is not None:
            message = unpacked(packed(message, floats.columns), floats.is_real)
        summed = message.new_empty(len(message) // self.comm.world_size, *message.shape[1:])
        yield self.comm.reduce_scatter("rows_grad", summed, message)
        own = summed[: len(ids.owned)] if floats is None else unpacked(summed[: floats.count], floats.own)
        return RowGradients(fetched.rows, ids.owned, own)

    def update_rows(self, rows: Tensor, grads: dict[str, Tensor]) -> None:
        if self._cache is None:
            super().update_rows(rows, grads)
            return
        self._rows.update(self._cache, rows, grads)
        self.table.end_step()

    def settle(self) -> None:
        if self._cache is not None:
            self._cache.flush()

    def dense_state(self) -> DenseState:
        """Also flushes the cache, because a checkpoint reads the table next."""
        self.settle()
        return super().dense_state()

    def _counts(self, batch: Batch, fetched: _GatheredRows, row_grads: RowGradients) -> Counts:
        ids = fetched.ids
        moves = fetched.moves
        return Counts(
            ids_sent=len(batch.ids),
            rows=len(row_grads.rows),
            keys=ids.distinct,
            requested=ids.most,
            row_floats=ids.floats.count if ids.floats is not None else 0,
            requested_floats=ids.floats.most if ids.floats is not None else 0,
            cache_misses=len(moves.missing) if moves is not None else 0,
            cache_evictions=len(moves.evicted) if moves is not None else 0,
        )

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        n = self.comm.world_size
        own = {"m": counts.ids_sent * n / samples, "u": float(counts.keys), "U": float(counts.requested * n)}
        owned = {"U": float(counts.rows * n)} | mean_width("WU", counts.rows, counts.row_floats)
        padded = {"U": float(counts.requested * n)} | mean_width("WU", counts.requested, counts.requested_floats)
        of_samples = ("split_ids", "ids", "merge_ids", "place_ids", "pool", "scatter_grad")
        return (
            dict.fromkeys(of_samples, own)
            | dict.fromkeys(("find", "lookup", "update_rows"), owned)
            | dict.fromkeys(("row_ids", "rows", "rows_grad"), padded)
            | {"rows_in": {"M": float(counts.cache_misses)}, "rows_out": {"M": float(counts.cache_evictions)}}
        )
