"""Data parallel, executed: the plan of dessim/workload/strategies/data_parallel.py, op by op.

    split_ids -> row_counts, row_ids (all_gather) | lookup -> pool -> dense part -> dense_grad (all_reduce)
    scatter_grad -> row_grads (all_gather) -> sum_grad -> update_rows, of all rows of the global batch, on every worker

Every worker holds every row that has occurred anywhere and applies the same updates. all_gather needs equal shares, so
each worker pads its distinct ids to the largest number on any worker; counts are sent first, to remove the padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from des_ref.data.batch import Batch
from des_ref.strategies.base import Counts, Lane
from des_ref.strategies.sharded_base import RowGradients, ShardedBase
from des_ref.substitution.owned import unique_with_index
from dessim.trace.schema import Phase


@dataclass(frozen=True, slots=True)
class _GatheredIds:
    """Distinct ids of this worker's samples, and those of all workers, all int64.

    unique    [u]
    inverse   [n], which of them each occurrence is
    of_all    [N, most], the distinct ids of all workers, padded
    counts    [N], the number of ids in each line
    """

    unique: Tensor
    inverse: Tensor
    of_all: Tensor
    counts: Tensor


@dataclass(frozen=True, slots=True)
class _PooledRows:
    """`values` [u, W] of this worker's ids, the leaf of the graph that computes `pooled` [b * F, W + E]."""

    ids: _GatheredIds
    values: Tensor
    pooled: Tensor


class DataParallel(ShardedBase):
    """Rows and dense parameters on every worker; only ids and gradients are sent."""

    name = "data_parallel"
    rows_replicated = True

    def _send_ids(self, batch: Batch, lane: Lane) -> _GatheredIds:
        n = lane.comm.world_size
        with lane.marks.segment("split_ids", Phase.INPUT):
            unique, inverse = torch.unique(batch.ids, return_inverse=True)
            own = torch.full((1,), len(unique), dtype=torch.int64, device=unique.device)
        counts = own.new_empty(n)
        lane.comm.all_gather("row_counts", counts, own).wait()
        most = int(counts.max())
        of_all = unique.new_empty(n * most)
        lane.comm.all_gather("row_ids", of_all, nnf.pad(unique, (0, most - len(unique)))).wait()
        return _GatheredIds(unique, inverse, of_all.view(n, most), counts)

    def _fetch(self, batch: Batch, ids: _GatheredIds, train: bool) -> _PooledRows:
        with self.marks.segment("lookup", Phase.FORWARD):
            # Rows are inserted in `_row_grads`, when the ids of all workers are known: every worker must count a step
            # once for each id, wherever the id occurs.
            _, values = self._values(ids.unique, train=False)
        with self.marks.segment("pool", Phase.FORWARD):
            values.requires_grad_(train)
            pooled = self._pooled_at_samples(values, ids.inverse, batch)
        return _PooledRows(ids, values, pooled)

    def _bags(self, fetched: _PooledRows) -> Tensor:
        return fetched.pooled.view(-1, self.network.fields, self.network.bag_width)

    def _row_grads(self, fetched: _PooledRows, grad: Tensor) -> RowGradients:
        ids = fetched.ids
        n, most = ids.of_all.shape
        with self.marks.segment("scatter_grad", Phase.BACKWARD):
            fetched.pooled.backward(grad.view(fetched.pooled.shape))
            padded = nnf.pad(fetched.values.grad, (0, 0, 0, most - len(ids.unique)))
        gathered = padded.new_empty(n * most, padded.shape[1])
        self.comm.all_gather("row_grads", gathered, padded).wait()
        with self.marks.segment("sum_grad", Phase.BACKWARD):
            is_id = (torch.arange(most, device=gathered.device) < ids.counts[:, None]).view(-1)
            # Every worker adds up the same gradients in the same order, so that replicas stay equal.
            unique, index = unique_with_index(ids.of_all.view(-1)[is_id])
            summed = index.scatter(gathered[is_id], len(unique))
            rows = self.table.find_or_insert(unique)
        return RowGradients(rows, unique, summed)

    def _counts(self, batch: Batch, fetched: _PooledRows, row_grads: RowGradients) -> Counts:
        own = len(fetched.ids.unique)
        most = fetched.ids.of_all.shape[1]
        rows = len(row_grads.rows)
        return Counts(ids_sent=len(batch.ids), rows=rows, keys=own, requested=most, common=rows)

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        own = {"m": counts.ids_sent * self.comm.world_size / samples, "u": float(counts.keys)}
        padded = {"u": float(counts.requested), "U": float(counts.rows)}
        names = ("row_ids", "row_grads", "sum_grad", "update_rows")
        return dict.fromkeys(("split_ids", "lookup", "pool", "scatter_grad"), own) | dict.fromkeys(names, padded)
