"""Rows sent to their samples, executed: the plan of dessim/workload/strategies/row_all_to_all.py, op by op.

    split_ids -> id_counts, ids -> lookup -> rows (all_to_all) -> pool -> dense part
    scatter_grad -> rows_grad (all_to_all) -> sum_grad -> update_rows

With hot rows:

    hot_seen (all_reduce, with the ids) | hot_lookup -> pool | hot_grad (all_reduce), in flight together with rows_grad

With `look_ahead` each worker reads the global batch and takes the samples that sample_assignment.py assigns to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.comm import Comm, Handle
from des_ref.data.batch import Batch
from des_ref.embedding.widths import Packing, new_message, packed, unpacked
from des_ref.models.build import Network
from des_ref.strategies.base import Counts, Lane, Optimizers, mean_width
from des_ref.strategies.exchange import Keys, RequestedKeys, request_keys
from des_ref.strategies.hot_rows import HotRows, hottest
from des_ref.strategies.in_turn import Part
from des_ref.strategies.sample_assignment import assign_samples, samples_of
from des_ref.strategies.sharded_base import RowGradients, ShardedBase
from des_ref.substitution.owned import unique_with_index
from des_ref.substitution.sums import RowIndex
from dessim.trace.schema import Phase
from dessim.workload.options import Options


@dataclass(frozen=True, slots=True)
class _RoutedKeys:
    """Keys of this worker's samples, the keys requested from it, and the hot rows of the global batch.

    to_fetch, to_serve   how the rows of these keys are packed
    hot_in_batch         int64 [t], ascending: places among the hot rows
    """

    keys: Keys
    requested: RequestedKeys
    to_fetch: Packing
    to_serve: Packing
    hot_in_batch: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedRows:
    """The distinct rows of this worker's samples, fetched from their owners, and the rows it served as an owner.

    unique    int64 [r], the distinct requested keys
    index     which of them each requested key is
    rows      int64 [r], their row numbers (None in prediction)
    values    [u, W] of `routed.keys`, the leaf of the graph that computes `pooled` [b * F, W + E]
    """

    routed: _RoutedKeys
    unique: Tensor
    index: RowIndex
    rows: Tensor | None
    values: Tensor
    pooled: Tensor


class RowAllToAll(ShardedBase):
    """Each worker fetches the distinct rows of its samples from their owners and returns their gradients."""

    name = "row_all_to_all"
    keys_op = "ids"
    rows_op = "rows"
    grads_op = "rows_grad"

    def __init__(self, network: Network, optimizers: Optimizers, comm: Comm, options: Options | None = None) -> None:
        super().__init__(network, optimizers, comm, options)
        none_yet = torch.empty(0, dtype=torch.int64, device=comm.device)
        self._hot = HotRows(none_yet) if self.options.hot_rows else None
        self._hot_on_host = HotRows(none_yet.cpu())  # whole batches are in host memory
        self.looks_ahead = self.options.look_ahead
        self.shares_rows = self._hot is not None

    def count(self, first: Callable[[], Iterable[Batch]]) -> None:
        if self._hot is not None:
            self._hot_on_host = HotRows(hottest(first(), self.options.hot_rows))
            self._hot = HotRows(self._hot_on_host.ids.to(self.comm.device))

    def share(self, whole: Batch) -> Batch:
        if not self.looks_ahead:
            return super().share(whole)
        owner = self.owner(whole.ids, whole.field)
        if self._hot is not None:
            owner = owner.masked_fill(self._hot_on_host.find(whole.ids) >= 0, -1)
        return samples_of(whole, assign_samples(whole, owner, self.comm.world_size), self.comm.rank)

    def is_everywhere(self, ids: Tensor, field: Tensor) -> Tensor:
        return super().is_everywhere(ids, field) if self._hot is None else self._hot.find(ids) >= 0

    # -- rows to samples and gradients back -----------------------------------------------------------------------

    def _send_ids(self, batch: Batch, lane: Lane) -> _RoutedKeys:
        keys, requested = request_keys(batch.ids, lane, self.keys_op, self._hot)
        to_fetch = Packing.of(keys.sizes, self.network.has_columns(keys.cold))
        to_serve = Packing.of(requested.sizes, self.network.has_columns(requested.keys))
        if self._hot is None:
            return _RoutedKeys(keys, requested, to_fetch, to_serve, keys.unique[:0])
        is_in_batch = torch.zeros(len(self._hot), dtype=torch.uint8, device=batch.ids.device)
        is_in_batch[keys.hot] = 1
        lane.comm.all_reduce_max("hot_seen", is_in_batch).wait()
        return _RoutedKeys(keys, requested, to_fetch, to_serve, is_in_batch.nonzero().squeeze(1))

    def _fetch(self, batch: Batch, ids: _RoutedKeys, train: bool) -> Part[FetchedRows]:
        keys = ids.keys
        requested = ids.requested
        with self.marks.segment("lookup", Phase.FORWARD):
            unique, index = unique_with_index(requested.keys)
            rows, unique_values = self._values(unique, train)
            reply = unique_values.index_select(0, index.row)
        to_fetch = ids.to_fetch
        to_serve = ids.to_serve
        message = new_message(reply, len(keys.cold), to_fetch.has)
        served = packed(reply, to_serve.has)
        yield self.comm.all_to_all(self.rows_op, message, served, to_fetch.sizes, to_serve.sizes)
        values = unpacked(message, to_fetch.has)
        if self._hot is not None:
            with self.marks.segment("hot_lookup", Phase.FORWARD):
                # Hot rows are inserted in `_row_grads`: every worker must count a step once for each hot id of the
                # global batch, wherever it occurs.
                _, hot_values = self._values(keys.unique[len(keys.cold) :], train=False)
                values = torch.cat([values, hot_values])
        with self.marks.segment("pool", Phase.FORWARD):
            values.requires_grad_(train)
            pooled = self._pooled_at_samples(values, keys.inverse, batch)
        return FetchedRows(routed=ids, unique=unique, index=index, rows=rows, values=values, pooled=pooled)

    def _bags(self, fetched: FetchedRows) -> Tensor:
        return fetched.pooled.view(-1, self.network.fields, self.network.bag_width)

    def _row_grads(self, fetched: FetchedRows, grad: Tensor) -> Part[RowGradients]:
        with self.marks.segment("scatter_grad", Phase.BACKWARD):
            fetched.pooled.backward(grad.view(fetched.pooled.shape))
            keys = fetched.routed.keys
            hot_in_batch = fetched.routed.hot_in_batch
            cold_grad, own_hot_grad = fetched.values.grad.tensor_split([len(keys.cold)])
            hot_grad = own_hot_grad.new_zeros(len(hot_in_batch), own_hot_grad.shape[1])
            if self._hot is not None:
                hot_grad[torch.searchsorted(hot_in_batch, keys.hot)] = own_hot_grad
        hot_sum = self._sum_hot(hot_grad)
        received = yield from self._return_grads(fetched, cold_grad)
        with self.marks.segment("sum_grad", Phase.BACKWARD):
            unique, index, rows = self._pushed_rows(fetched)
            summed = index.scatter(received, len(unique))
        if self._hot is None or hot_sum is None:
            return RowGradients(rows, unique, summed)
        yield hot_sum
        hot_ids = self._hot.ids[hot_in_batch]
        hot_rows = self.table.find_or_insert(hot_ids)
        return RowGradients(torch.cat([rows, hot_rows]), torch.cat([unique, hot_ids]), torch.cat([summed, hot_grad]))

    def _sum_hot(self, grad: Tensor) -> Handle | None:
        return self.comm.all_reduce("hot_grad", grad) if self._hot is not None else None

    def _return_grads(self, fetched: FetchedRows, grads: Tensor) -> Part[Tensor]:
        """Send gradients to the owners of their rows; returns those of the keys requested here, in request order."""
        routed = fetched.routed
        fetch = routed.to_fetch
        serve = routed.to_serve
        received = new_message(grads, len(routed.requested.keys), serve.has)
        yield self.comm.all_to_all(self.grads_op, received, packed(grads, fetch.has), serve.sizes, fetch.sizes)
        return unpacked(received, serve.has)

    def _pushed_rows(self, fetched: FetchedRows) -> tuple[Tensor, RowIndex, Tensor]:
        """The distinct keys of the received gradients, the key of each gradient, and the keys' row numbers."""
        assert fetched.rows is not None  # kept since the lookup
        return fetched.unique, fetched.index, fetched.rows

    def _counts(self, batch: Batch, fetched: FetchedRows, row_grads: RowGradients) -> Counts:
        keys = fetched.routed.keys
        return Counts(
            ids_sent=len(batch.ids),
            rows=len(row_grads.rows),
            keys=len(keys.cold),
            requested=len(fetched.routed.requested.keys),
            common=len(fetched.routed.hot_in_batch),
            hot=len(keys.unique) - len(keys.cold),
            local=keys.sizes[self.comm.rank],
            row_floats=self.network.floats(row_grads.ids),
            key_floats=fetched.routed.to_fetch.floats,
            requested_floats=fetched.routed.to_serve.floats,
        )

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        n = self.comm.world_size
        owned = counts.rows - counts.common
        batch = {"X": float(owned * n), "U": float(owned * n + counts.common)}
        own = {"m": counts.ids_sent * n / samples, "u": float(counts.keys + counts.hot), "x": float(counts.keys)}
        as_owner = {"u": float(counts.requested), "x": float(counts.requested)} | batch
        own |= mean_width("Wu", counts.keys, counts.key_floats)
        as_owner |= mean_width("Wu", counts.requested, counts.requested_floats)
        as_owner |= mean_width("WU", counts.rows, counts.row_floats)
        if self.looks_ahead:
            own["l"] = counts.local / max(counts.keys, 1)
            as_owner["l"] = counts.local / max(counts.requested, 1)
        of_samples = ("split_ids", self.keys_op, "hot_lookup", "pool", "scatter_grad", self.grads_op)
        of_owner = ("lookup", self.rows_op, "sum_grad", "update_rows")
        hot = {"hot_seen": {"H": float(len(self._hot))}, "hot_grad": batch} if self._hot is not None else {}
        return dict.fromkeys(of_samples, own) | dict.fromkeys(of_owner, as_owner) | hot
