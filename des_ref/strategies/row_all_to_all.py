"""Rows that travel to their samples, executed: dessim/workload/strategies/row_all_to_all.py, op by op.

    split_ids -> id_counts, ids -> lookup -> rows (all_to_all) -> pool -> dense part
    scatter_grad -> rows_grad (all_to_all) -> sum_grad -> update_rows

With hot rows:

    hot_seen (all_reduce, ahead) | hot_lookup -> pool | hot_grad (all_reduce), under way beside rows_grad

With `look_ahead` each worker reads the global batch and takes the samples that assign.py gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.comm import Comm, Handle
from des_ref.data.batch import Batch
from des_ref.models.build import Network
from des_ref.strategies.assign import assign, share_of
from des_ref.strategies.base import Counts, Lane, Optimizers
from des_ref.strategies.exchange import Asked, Keys, send_keys
from des_ref.strategies.hot_rows import HotRows, hottest
from des_ref.strategies.sharded_base import ShardedBase, Updated
from dessim.trace.schema import Phase
from dessim.workload.options import Options


@dataclass(frozen=True, slots=True)
class _Sent:
    """`seen` int64 [t], ascending: places of the hot rows that the global batch has."""

    keys: Keys
    asked: Asked
    seen: Tensor


@dataclass(frozen=True, slots=True)
class RowsHere:
    """Different rows of this worker's samples, fetched from their owners, and what this owner answered others.

    unique    int64 [r], the different ones of `asked`; `inverse` which of them each asked key is; `rows` their numbers
    values    [u, W] of `keys`, the leaf of the graph that ends in `pooled` [b * F, W + E]
    """

    keys: Keys
    asked: Asked
    seen: Tensor
    unique: Tensor
    inverse: Tensor
    rows: Tensor | None
    values: Tensor
    pooled: Tensor


class RowAllToAll(ShardedBase):
    """Each worker fetches the different rows of its samples and returns their gradients."""

    name = "row_all_to_all"
    keys_op, rows_op, grads_op = "ids", "rows", "rows_grad"

    def __init__(self, network: Network, optimizers: Optimizers, comm: Comm, options: Options | None = None) -> None:
        super().__init__(network, optimizers, comm, options)
        nothing = torch.empty(0, dtype=torch.int64, device=comm.device)
        self._hot = HotRows(nothing) if self.options.hot_rows else None
        self.looks_ahead, self.shares_rows = self.options.look_ahead, self._hot is not None

    def count(self, first: Callable[[], Iterable[Batch]]) -> None:
        if self._hot is not None:
            self._hot = HotRows(hottest(first(), self.options.hot_rows).to(self.comm.device))

    def share(self, whole: Batch) -> Batch:
        if not self.looks_ahead:
            return super().share(whole)
        owner = self.owner(whole.ids, whole.field)
        if self._hot is not None:
            owner = owner.masked_fill(self.is_everywhere(whole.ids.to(self.comm.device)).cpu(), -1)
        return share_of(whole, assign(whole, owner, self.comm.world_size), self.comm.rank)

    def is_everywhere(self, ids: Tensor) -> Tensor:
        return super().is_everywhere(ids) if self._hot is None else self._hot.find(ids) >= 0

    # -- the frame's holes ----------------------------------------------------------------------------------------

    def _send_ids(self, batch: Batch, lane: Lane) -> _Sent:
        keys, asked = send_keys(batch.ids, lane, self.keys_op, self._hot)
        if self._hot is None:
            return _Sent(keys, asked, keys.unique[:0])
        seen = torch.zeros(len(self._hot), dtype=torch.uint8, device=batch.ids.device)
        seen[keys.hot] = 1
        lane.comm.all_reduce_max("hot_seen", seen).wait()
        return _Sent(keys, asked, seen.nonzero().squeeze(1))

    def _fetch(self, batch: Batch, ids: _Sent, train: bool) -> RowsHere:
        keys, asked = ids.keys, ids.asked
        with self.marks.segment("lookup", Phase.FORWARD):
            unique, inverse = torch.unique(asked.keys, return_inverse=True)
            rows, different = self._values(unique, train)
            answer = different.index_select(0, inverse)
        values = answer.new_empty(len(keys.cold), answer.shape[1])
        self.comm.all_to_all(self.rows_op, values, answer, keys.sizes, asked.sizes).wait()
        if self._hot is not None:
            with self.marks.segment("hot_lookup", Phase.FORWARD):
                # They are inserted with everyone's gradients: a step counts once for an id, whoever has it.
                _, here = self._values(keys.unique[len(keys.cold) :], train=False)
                values = torch.cat([values, here])
        with self.marks.segment("pool", Phase.FORWARD):
            values.requires_grad_(train)
            bag = batch.sample * self.network.fields + batch.field
            pooled = self._pooled(values, keys.inverse, bag, len(batch) * self.network.fields)
        return RowsHere(keys, asked, ids.seen, unique, inverse, rows, values, pooled)

    def _bags(self, fetched: RowsHere) -> Tensor:
        return fetched.pooled.view(-1, self.network.fields, self.network.bag_width)

    def _row_grads(self, fetched: RowsHere, grad: Tensor) -> Updated:
        with self.marks.segment("scatter_grad", Phase.BACKWARD):
            fetched.pooled.backward(grad.view(fetched.pooled.shape))
            asked = len(fetched.keys.cold)
            message, here = fetched.values.grad[:asked], fetched.values.grad[asked:]
            common = here.new_zeros(len(fetched.seen), here.shape[1])
            if self._hot is not None:
                common[torch.searchsorted(fetched.seen, fetched.keys.hot)] = here
        summing = self._sum_hot(common)
        arrived = self._return(fetched, message)
        with self.marks.segment("sum_grad", Phase.BACKWARD):
            unique, inverse, rows = self._owned(fetched)
            summed = message.new_zeros(len(unique), message.shape[1]).index_add_(0, inverse, arrived)
        if self._hot is None or summing is None:
            return Updated(rows, unique, summed)
        summing.wait()
        ids = self._hot.ids[fetched.seen]
        hot_rows = self.table.find_or_insert(ids)
        return Updated(torch.cat([rows, hot_rows]), torch.cat([unique, ids]), torch.cat([summed, common]))

    def _sum_hot(self, grad: Tensor) -> Handle | None:
        return self.comm.all_reduce("hot_grad", grad) if self._hot is not None else None

    def _return(self, fetched: RowsHere, message: Tensor) -> Tensor:
        """Gradients of the keys that others asked for, in the order they asked."""
        arrived = message.new_empty(len(fetched.asked.keys), message.shape[1])
        self.comm.all_to_all(self.grads_op, arrived, message, fetched.asked.sizes, fetched.keys.sizes).wait()
        return arrived

    def _owned(self, fetched: RowsHere) -> tuple[Tensor, Tensor, Tensor]:
        """Different keys whose gradients came, which of them each is, and their row numbers: kept since the lookup."""
        assert fetched.rows is not None
        return fetched.unique, fetched.inverse, fetched.rows

    def _counts(self, batch: Batch, fetched: RowsHere, updated: Updated) -> Counts:
        keys, common = fetched.keys, len(fetched.seen)
        return Counts(
            ids_sent=len(batch.ids),
            rows=len(updated.rows),
            keys=len(keys.cold),
            asked=len(fetched.asked.keys),
            common=common,
            hot=len(keys.unique) - len(keys.cold),
            local=keys.sizes[self.comm.rank],
        )

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        n, owned = self.comm.world_size, counts.rows - counts.common
        batch = {"X": float(owned * n), "U": float(owned * n + counts.common)}
        own = {"m": counts.ids_sent * n / samples, "u": float(counts.keys + counts.hot), "x": float(counts.keys)}
        here = {"u": float(counts.asked), "x": float(counts.asked)} | batch
        if self.looks_ahead:
            own["l"], here["l"] = (counts.local / max(count, 1) for count in (counts.keys, counts.asked))
        mine = ("split_ids", self.keys_op, "hot_lookup", "pool", "scatter_grad", self.grads_op)
        others = ("lookup", self.rows_op, "sum_grad", "update_rows")
        hot = {"hot_seen": {"H": float(len(self._hot))}, "hot_grad": batch} if self._hot is not None else {}
        return dict.fromkeys(mine, own) | dict.fromkeys(others, here) | hot
