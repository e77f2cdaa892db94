"""Rows of the global batch on every worker, executed: dessim/workload/strategies/row_all_gather.py, op by op.

    split_ids -> id_counts, ids -> merge_ids -> row_counts, row_ids (all_gather) -> place_ids
    find -> (rows_out, rows_in) -> lookup -> rows (all_gather) -> pool -> dense part
    scatter_grad -> rows_grad (reduce_scatter) -> update_rows

all_gather and reduce_scatter want equal shares, so each owner's rows are padded to the most that any owner has; counts
travel first and say what is padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from des_ref.comm import Comm
from des_ref.data.batch import Batch
from des_ref.embedding.cached_rows import CachedRows, CacheMoves
from des_ref.embedding.hash_table import RowTable
from des_ref.embedding.lifetime import Lifetime
from des_ref.models.build import Network
from des_ref.strategies.base import Counts, Lane, Optimizers
from des_ref.strategies.dense_state import DenseState
from des_ref.strategies.exchange import send_keys
from des_ref.strategies.sharded_base import ShardedBase, Updated
from dessim.errors import UsageError
from dessim.trace.schema import Phase
from dessim.workload.options import Options


@dataclass(frozen=True, slots=True)
class _Ids:
    """`owned` int64 [r], different ids of the global batch that this worker owns; each owner has `most` lines.

    index   int64 [n], the line of each occurrence among the N * most of all owners
    own     how many different ids this worker's samples have
    """

    owned: Tensor
    most: int
    index: Tensor
    own: int


@dataclass(frozen=True, slots=True)
class _Fetched:
    """`values` [N * most, W], the leaf of the graph that ends in `pooled` [b * F, W + E].

    `rows` [r] are those of `owned`, in the table or in the cache if there is one.
    """

    ids: _Ids
    rows: Tensor
    moves: CacheMoves | None
    values: Tensor
    pooled: Tensor


class RowAllGather(ShardedBase):
    """Each row of the batch is brought to everyone, once; sums of its gradients go to its owner."""

    name = "row_all_gather"

    def __init__(self, network: Network, optimizers: Optimizers, comm: Comm, options: Options | None = None) -> None:
        super().__init__(network, optimizers, comm, options)
        capacity = self.options.cache_rows
        if capacity and optimizers.lifetime != Lifetime():
            raise UsageError("cache_rows is for rows that stay: leave out admit_after and expire_after")
        self._cache = CachedRows(self.table, capacity, comm.device) if capacity else None

    def _new_table(self, optimizers: Optimizers, more: dict[str, int]) -> RowTable:
        device = "cpu" if self.options.cache_rows else None
        return self.network.new_table(optimizers.rows, optimizers.init_std, more, optimizers.lifetime, device)

    def _send_ids(self, batch: Batch, lane: Lane) -> _Ids:
        comm, n = lane.comm, lane.comm.world_size
        keys, asked = send_keys(batch.ids, lane, "ids")
        with lane.marks.segment("merge_ids", Phase.INPUT):
            owned = torch.unique(asked.keys)
            own = torch.full((1,), len(owned), dtype=torch.int64, device=owned.device)
        counts = own.new_empty(n)
        comm.all_gather("row_counts", counts, own).wait()
        most = int(counts.max())
        everyones = owned.new_empty(n * most)
        comm.all_gather("row_ids", everyones, nnf.pad(owned, (0, most - len(owned)))).wait()
        with lane.marks.segment("place_ids", Phase.INPUT):
            line = torch.arange(n * most, device=owned.device)
            line = line[line % max(most, 1) < torch.repeat_interleave(counts, most)]
            ids, order = everyones[line].sort()
            index = line[order[torch.searchsorted(ids, keys.unique)]][keys.inverse]
        return _Ids(owned, most, index, len(keys.unique))

    def _fetch(self, batch: Batch, ids: _Ids, train: bool) -> _Fetched:
        mark, moves = self.marks.segment, None
        if not train:
            own = self._values(ids.owned if self._cache is None else ids.owned.cpu(), train=False)[1]
            rows = ids.owned
        elif self._cache is None:
            with mark("lookup", Phase.FORWARD):
                found, own = self._values(ids.owned, train=True)
                assert found is not None
                rows = found
        else:
            rows, moves, own = self._from_cache(self._cache, ids.owned)
        whole = own.new_empty(ids.most * self.comm.world_size, own.shape[1], device=self.comm.device)
        padded = nnf.pad(own.to(self.comm.device), (0, 0, 0, ids.most - len(own)))
        self.comm.all_gather("rows", whole, padded).wait()
        with mark("pool", Phase.FORWARD):
            whole.requires_grad_(train)
            bag = batch.sample * self.network.fields + batch.field
            pooled = self._pooled(whole, ids.index, bag, len(batch) * self.network.fields)
        return _Fetched(ids, rows, moves, whole, pooled)

    def _from_cache(self, cache: CachedRows, ids: Tensor) -> tuple[Tensor, CacheMoves, Tensor]:
        with self.marks.segment("find", Phase.FORWARD):
            rows = self.table.find_or_insert(ids.cpu())
            moves = cache.plan_moves(rows)
        with self.marks.copy("rows_out", Phase.FORWARD, len(moves.evicted) * cache.row_bytes):
            cache.write_back(moves)
        with self.marks.copy("rows_in", Phase.FORWARD, len(moves.missing) * cache.row_bytes):
            cache.load(moves)
        with self.marks.segment("lookup", Phase.FORWARD):
            places = cache.slots(rows).to(ids.device)
            own = torch.cat([cache.columns[name][places] for name in self.network.row_widths], dim=1)
        return places, moves, own

    def _bags(self, fetched: _Fetched) -> Tensor:
        return fetched.pooled.view(-1, self.network.fields, self.network.bag_width)

    def _row_grads(self, fetched: _Fetched, grad: Tensor) -> Updated:
        ids = fetched.ids
        with self.marks.segment("scatter_grad", Phase.BACKWARD):
            fetched.pooled.backward(grad.view(fetched.pooled.shape))
        summed = fetched.values.grad.new_empty(ids.most, fetched.values.shape[1])
        self.comm.reduce_scatter("rows_grad", summed, fetched.values.grad).wait()
        return Updated(fetched.rows, ids.owned, summed[: len(ids.owned)])

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
        """And the table has what the cache has, which a checkpoint takes next."""
        self.settle()
        return super().dense_state()

    def _counts(self, batch: Batch, fetched: _Fetched, updated: Updated) -> Counts:
        ids, moves = fetched.ids, fetched.moves
        came, went = (len(moves.missing), len(moves.evicted)) if moves is not None else (0, 0)
        return Counts(len(batch.ids), rows=len(updated.rows), keys=ids.own, asked=ids.most, came=came, went=went)

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        n = self.comm.world_size
        own = {"m": counts.ids_sent * n / samples, "u": float(counts.keys), "U": float(counts.asked * n)}
        here, everyone = {"U": float(counts.rows * n)}, {"U": float(counts.asked * n)}
        mine = ("split_ids", "ids", "merge_ids", "place_ids", "pool", "scatter_grad")
        return (
            dict.fromkeys(mine, own)
            | dict.fromkeys(("find", "lookup", "update_rows"), here)
            | dict.fromkeys(("row_ids", "rows", "rows_grad"), everyone)
            | {"rows_in": {"M": float(counts.came)}, "rows_out": {"M": float(counts.went)}}
        )
