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
from des_ref.embedding.by_width import packed, unpacked
from des_ref.strategies.base import Counts, Lane, mean_width
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
    lines     [N], the lines of each worker's message: rows, or floats where tables differ in width
    """

    unique: Tensor
    inverse: Tensor
    of_all: Tensor
    counts: Tensor
    lines: Tensor


def _is_real(counts: Tensor, most: int) -> Tensor:
    """bool [N * most]: which lines are not padding, if worker r has `counts[r]` of them."""
    return (torch.arange(most, device=counts.device) < counts[:, None]).view(-1)


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
        has = self.network.has_columns(of_all)
        lines = counts if has is None else (has.sum(dim=1) * _is_real(counts, most)).view(n, most).sum(dim=1)
        return _GatheredIds(unique, inverse, of_all.view(n, most), counts, lines)

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
            message = packed(fetched.values.grad, self.network.has_columns(ids.unique))
            padded = nnf.pad(message, (*(0, 0) * (message.dim() - 1), 0, int(ids.lines.max()) - len(message)))
        gathered = padded.new_empty(n * len(padded), *padded.shape[1:])
        self.comm.all_gather("row_grads", gathered, padded).wait()
        with self.marks.segment("sum_grad", Phase.BACKWARD):
            of_all = ids.of_all.view(-1)[_is_real(ids.counts, most)]
            # Every worker adds up the same gradients in the same order, so that replicas stay equal.
            unique, index = unique_with_index(of_all)
            grads = unpacked(gathered[_is_real(ids.lines, len(padded))], self.network.has_columns(of_all))
            summed = index.scatter(grads, len(unique))
            rows = self.table.find_or_insert(unique)
        return RowGradients(rows, unique, summed)

    def _counts(self, batch: Batch, fetched: _PooledRows, row_grads: RowGradients) -> Counts:
        own = len(fetched.ids.unique)
        most = fetched.ids.of_all.shape[1]
        rows = len(row_grads.rows)
        return Counts(
            ids_sent=len(batch.ids),
            rows=rows,
            keys=own,
            requested=most,
            common=rows,
            row_floats=self.network.floats(row_grads.ids),
            key_floats=self.network.floats(fetched.ids.unique),
            requested_floats=int(fetched.ids.lines.max()) if self.network.floats(fetched.ids.unique) else 0,
        )

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        own = {"m": counts.ids_sent * self.comm.world_size / samples, "u": float(counts.keys)}
        own |= mean_width("Wu", counts.keys, counts.key_floats)
        padded = {"u": float(counts.requested), "U": float(counts.rows)}
        padded |= mean_width("Wu", counts.requested, counts.requested_floats)
        padded |= mean_width("WU", counts.rows, counts.row_floats)
        names = ("row_ids", "row_grads", "sum_grad", "update_rows")
        return dict.fromkeys(("split_ids", "lookup", "pool", "scatter_grad"), own) | dict.fromkeys(names, padded)
