"""Data parallel, executed: the plan of dessim/workload/strategies/data_parallel.py, op by op.

    split_ids -> row_counts, row_ids (all_gather) | lookup -> pool -> dense part -> dense_grad (all_reduce)
    scatter_grad -> row_grads (all_gather) -> sum_grad -> update_rows, of all rows of the global batch, on every worker

Every worker holds every row that has occurred anywhere and applies the same updates. all_gather needs equal shares, so
each worker pads its distinct ids to the largest number on any worker; counts are sent first, to remove the padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.data.batch import Batch
from des_ref.embedding.widths import packed, unpacked
from des_ref.strategies.base import Counts, Lane, mean_width
from des_ref.strategies.in_turn import Part
from des_ref.strategies.padding import PaddedIds, gather_ids, is_real, padded
from des_ref.strategies.sharded_base import RowGradients, ShardedBase
from des_ref.substitution.owned import unique_with_index
from dessim.trace.schema import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class _GatheredIds:
    """Distinct ids of this worker's samples, and those of all workers.

    unique    int64 [u]
    inverse   int64 [n], which of them each occurrence is
    columns   bool [u, W], those of the rows of `unique`; None where tables have one width
    of_all    the distinct ids of each worker
    lines     the lines of a worker's gradients, padding included: rows, or floats where tables differ in width
    is_line   bool [N * lines], those that are not padding
    """

    unique: Tensor
    inverse: Tensor
    columns: Tensor | None
    of_all: PaddedIds
    lines: int
    is_line: Tensor


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
        with lane.marks.segment("split_ids", Phase.INPUT):
            unique, inverse = torch.unique(batch.ids, return_inverse=True)
        of_all = gather_ids(unique, lane.comm)
        lines = of_all.most
        is_line = of_all.is_real
        columns = self.network.has_columns(of_all.ids)
        if columns is not None:
            floats = (columns & is_line[:, None]).view(lane.comm.world_size, -1).sum(dim=1)
            lines = int(floats.max())
            is_line = is_real(floats, lines)
        return _GatheredIds(
            unique=unique,
            inverse=inverse,
            columns=self.network.has_columns(unique),
            of_all=of_all,
            lines=lines,
            is_line=is_line,
        )

    def _fetch(self, batch: Batch, ids: _GatheredIds, train: bool) -> Part[_PooledRows]:
        with self.marks.segment("lookup", Phase.FORWARD):
            # Rows are inserted in `_row_grads`, when the ids of all workers are known: every worker must count a step
            # once for each id, wherever the id occurs.
            _, values = self._values(ids.unique, train=False)
        with self.marks.segment("pool", Phase.FORWARD):
            values.requires_grad_(train)
            pooled = self._pooled_at_samples(values, ids.inverse, batch)
        yield from ()  # no message
        return _PooledRows(ids, values, pooled)

    def _bags(self, fetched: _PooledRows) -> Tensor:
        return fetched.pooled.view(-1, self.network.fields, self.network.bag_width)

    def _row_grads(self, fetched: _PooledRows, grad: Tensor) -> Part[RowGradients]:
        ids = fetched.ids
        with self.marks.segment("scatter_grad", Phase.BACKWARD):
            fetched.pooled.backward(grad.view(fetched.pooled.shape))
            message = padded(packed(fetched.values.grad, ids.columns), ids.lines)
        gathered = message.new_empty(self.comm.world_size * ids.lines, *message.shape[1:])
        yield self.comm.all_gather("row_grads", gathered, message)
        with self.marks.segment("sum_grad", Phase.BACKWARD):
            of_all = ids.of_all.ids[ids.of_all.is_real]
            # Every worker adds up the same gradients in the same order, so that replicas stay equal.
            unique, index = unique_with_index(of_all)
            grads = unpacked(gathered[ids.is_line], self.network.has_columns(of_all))
            summed = index.scatter(grads, len(unique))
            rows = self.table.find_or_insert(unique)
        return RowGradients(rows, unique, summed)

    def _counts(self, batch: Batch, fetched: _PooledRows, row_grads: RowGradients) -> Counts:
        ids = fetched.ids
        rows = len(row_grads.rows)
        floats = self.network.floats(ids.unique)
        return Counts(
            ids_sent=len(batch.ids),
            rows=rows,
            keys=len(ids.unique),
            requested=ids.of_all.most,
            common=rows,
            row_floats=self.network.floats(row_grads.ids),
            key_floats=floats,
            requested_floats=ids.lines if floats else 0,
        )

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        own = {"m": counts.ids_sent * self.comm.world_size / samples, "u": float(counts.keys)}
        own |= mean_width("Wu", counts.keys, counts.key_floats)
        padded = {"u": float(counts.requested), "U": float(counts.rows)}
        padded |= mean_width("Wu", counts.requested, counts.requested_floats)
        padded |= mean_width("WU", counts.rows, counts.row_floats)
        names = ("row_ids", "row_grads", "sum_grad", "update_rows")
        return dict.fromkeys(("split_ids", "lookup", "pool", "scatter_grad"), own) | dict.fromkeys(names, padded)
