"""Data parallel, executed: the plan of dessim/workload/strategies/data_parallel.py, op by op.

    split_ids -> row_counts, row_ids (all_gather) | lookup -> pool -> dense part -> dense_grad (all_reduce)
    scatter_grad -> row_grads (all_gather) -> sum_grad -> update_rows, of all rows of the global batch, on every worker

Every worker holds every row that anyone has seen and updates it alike. all_gather wants equal shares, so each worker's
different ids are padded to the most that any worker has; counts travel first and cut the padding off again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from des_ref.data.batch import Batch
from des_ref.strategies.base import Counts, Lane
from des_ref.strategies.sharded_base import ShardedBase, Updated
from dessim.trace.schema import Phase


@dataclass(frozen=True, slots=True)
class _Ids:
    """Different ids of this worker's samples [u], which of them each occurrence is [n], and everyone's.

    everyones   int64 [N, most], padded; `counts` [N] says how many of each line are ids
    """

    unique: Tensor
    inverse: Tensor
    everyones: Tensor
    counts: Tensor


@dataclass(frozen=True, slots=True)
class _Fetched:
    """`values` [u, W] of this worker's ids, the leaf of the graph that ends in `pooled` [b * F, W + E]."""

    ids: _Ids
    values: Tensor
    pooled: Tensor


class DataParallel(ShardedBase):
    """Rows and dense parameters on every worker; only ids and gradients travel."""

    name = "data_parallel"
    rows_replicated = True

    def _send_ids(self, batch: Batch, lane: Lane) -> _Ids:
        n = lane.comm.world_size
        with lane.marks.segment("split_ids", Phase.INPUT):
            unique, inverse = torch.unique(batch.ids, return_inverse=True)
            own = torch.full((1,), len(unique), dtype=torch.int64, device=unique.device)
        counts = own.new_empty(n)
        lane.comm.all_gather("row_counts", counts, own).wait()
        most = int(counts.max())
        everyones = unique.new_empty(n * most)
        lane.comm.all_gather("row_ids", everyones, nnf.pad(unique, (0, most - len(unique)))).wait()
        return _Ids(unique, inverse, everyones.view(n, most), counts)

    def _fetch(self, batch: Batch, ids: _Ids, train: bool) -> _Fetched:
        fields = self.network.fields
        with self.marks.segment("lookup", Phase.FORWARD):
            # Rows are inserted with everyone's gradients, below: a step counts once for an id, whoever has it.
            _, values = self._values(ids.unique, train=False)
        with self.marks.segment("pool", Phase.FORWARD):
            values.requires_grad_(train)
            pooled = self._pooled(values, ids.inverse, batch.sample * fields + batch.field, len(batch) * fields)
        return _Fetched(ids, values, pooled)

    def _bags(self, fetched: _Fetched) -> Tensor:
        return fetched.pooled.view(-1, self.network.fields, self.network.bag_width)

    def _row_grads(self, fetched: _Fetched, grad: Tensor) -> Updated:
        ids = fetched.ids
        n, most = ids.everyones.shape
        with self.marks.segment("scatter_grad", Phase.BACKWARD):
            fetched.pooled.backward(grad.view(fetched.pooled.shape))
            padded = nnf.pad(fetched.values.grad, (0, 0, 0, most - len(ids.unique)))
        everyones = padded.new_empty(n * most, padded.shape[1])
        self.comm.all_gather("row_grads", everyones, padded).wait()
        with self.marks.segment("sum_grad", Phase.BACKWARD):
            real = (torch.arange(most, device=everyones.device) < ids.counts[:, None]).view(-1)
            unique, index = torch.unique(ids.everyones.view(-1)[real], return_inverse=True)
            summed = everyones.new_zeros(len(unique), everyones.shape[1]).index_add_(0, index, everyones[real])
            rows = self.table.find_or_insert(unique)
        return Updated(rows, unique, summed)

    def _counts(self, batch: Batch, fetched: _Fetched, updated: Updated) -> Counts:
        own, most = len(fetched.ids.unique), fetched.ids.everyones.shape[1]
        rows = len(updated.rows)
        return Counts(ids_sent=len(batch.ids), rows=rows, keys=own, asked=most, common=rows)

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        own = {"m": counts.ids_sent * self.comm.world_size / samples, "u": float(counts.keys)}
        everyone = {"u": float(counts.asked), "U": float(counts.rows)}
        names = ("row_ids", "row_grads", "sum_grad", "update_rows")
        return dict.fromkeys(("split_ids", "lookup", "pool", "scatter_grad"), own) | dict.fromkeys(names, everyone)
