"""What DES competes with, executed: the plans of dessim/workload/strategies/sharded.py, op by op.

    table_wise      lengths, ids -> lookup -> pool -> pooled (all_to_all) | pooled_grad (all_to_all) -> scatter_grad
    row_wise        id_counts, ids -> lookup -> pool -> pooled (reduce_scatter) | pooled_grad (all_gather) -> ...
    mesh            the same, but pooled is all_reduced and the dense part runs replicated: nothing is sent back

The owners of rows pool them and bags travel: W floats of a row and the E floats that operators need of each id, summed
over the ids of one field of one sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from des_ref.comm import Comm, Handle
from des_ref.data.batch import Batch
from des_ref.strategies.base import Counts, Lane
from des_ref.strategies.exchange import (
    send_occurrences,
    send_tables,
    table_order,
    tables_of,
    unpack_occurrences,
)
from des_ref.strategies.grads import SummedGrads
from des_ref.strategies.sharded_base import ShardedBase, Updated
from dessim.trace.schema import Phase


@dataclass(frozen=True, slots=True)
class _PooledHere:
    """Rows that this worker holds, and the bags they were pooled into.

    unique, rows  int64 [u], different ids and their row numbers
    values        [u, W], the leaf of the graph that ends in `pooled` [bags, W + E]
    arrived       the bags that came back for this worker's samples
    held          occurrences, over the global batch, of ids it holds
    """

    unique: Tensor
    rows: Tensor | None
    values: Tensor
    pooled: Tensor
    arrived: Tensor
    held: int


class _OwnersPool(ShardedBase):
    """Owners pool, bags travel."""

    def _send_ids(self, batch: Batch, lane: Lane) -> Any:
        return send_occurrences(batch, self.owner, lane, self.network.fields)

    def _occurrences(self, sent: Any, samples: int) -> tuple[Tensor, Tensor, Tensor]:
        """Different ids [u], and of each occurrence [n] which of them it is and which bag it belongs to."""
        unique, held = unpack_occurrences(sent, samples, self.network.fields)
        return unique, held.inverse, held.bag

    def _bags_here(self, samples: int) -> int:
        return samples * self.network.fields

    def _fields(self, bag: Tensor, samples: int) -> Tensor:
        """The field of each bag."""
        return bag % self.network.fields

    def _deliver(self, pooled: Tensor, samples: int) -> Tensor:
        """The collective `pooled`."""
        raise NotImplementedError

    def _fetch(self, batch: Batch, ids: Any, train: bool) -> _PooledHere:
        samples = len(batch) * self.comm.world_size
        with self.marks.segment("lookup", Phase.FORWARD):
            unique, index, bag = self._occurrences(ids, samples)
            rows, values = self._values(unique, train)
            if rows is not None:
                self.note_fields(rows, index, self._fields(bag, samples))
        with self.marks.segment("pool", Phase.FORWARD):
            values.requires_grad_(train)
            pooled = self._pooled(values, index, bag, self._bags_here(samples))
        arrived = self._deliver(pooled.detach(), samples)
        return _PooledHere(unique, rows, values, pooled, arrived, len(index))

    def _bags(self, fetched: _PooledHere) -> Tensor:
        return fetched.arrived.view(-1, self.network.fields, self.network.bag_width)

    def _row_grads(self, fetched: _PooledHere, grad: Tensor) -> Updated:
        with self.marks.segment("scatter_grad", Phase.BACKWARD):
            fetched.pooled.backward(grad.reshape(fetched.pooled.shape))
        assert fetched.rows is not None
        return Updated(fetched.rows, fetched.unique, fetched.values.grad)

    def _counts(self, batch: Batch, fetched: _PooledHere, updated: Updated) -> Counts:
        return Counts(ids_sent=len(batch.ids), ids_held=fetched.held, rows=len(updated.rows))

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        n = self.comm.world_size
        sent = {"m": counts.ids_sent * n / samples}
        # What this worker holds, said as the means that the formulas expect: B m / N ids, U / N rows.
        held = {"m": counts.ids_held * n / samples, "U": float(counts.rows * n)} | self._tables_here()
        names = ("lookup", "pool", "pooled", "scatter_grad", "update_rows")
        return {"split_ids": sent, "ids": sent} | dict.fromkeys(names, held)

    def _tables_here(self) -> dict[str, float]:
        return {}


class TableWise(_OwnersPool):
    """A table lives on one worker: table f on rank f mod N."""

    name = "table_wise"
    goes_by_field = True

    def owner(self, ids: Tensor, field: Tensor) -> Tensor:
        return field % self.comm.world_size

    @property
    def _own_tables(self) -> int:
        return tables_of(self.comm.rank, self.comm.world_size, self.network.fields)

    def _tables_here(self) -> dict[str, float]:
        return {"F": float(self._own_tables * self.comm.world_size)}

    def _send_ids(self, batch: Batch, lane: Lane) -> Any:
        return send_tables(batch, lane, self.network.fields)

    def _occurrences(self, sent: Any, samples: int) -> tuple[Tensor, Tensor, Tensor]:
        unique, index = torch.unique(sent.ids, return_inverse=True)
        return unique, index, sent.bag

    def _bags_here(self, samples: int) -> int:
        return samples * self._own_tables

    def _fields(self, bag: Tensor, samples: int) -> Tensor:
        n = self.comm.world_size
        return torch.div(bag, samples // n, rounding_mode="floor") % self._own_tables * n + self.comm.rank

    def _splits(self, samples: int) -> tuple[list[int], list[int]]:
        """Bags that this worker pools for each rank, and that each rank pools for it."""
        n, share = self.comm.world_size, samples // self.comm.world_size
        return [self._own_tables * share] * n, [tables_of(r, n, self.network.fields) * share for r in range(n)]

    def _deliver(self, pooled: Tensor, samples: int) -> Tensor:
        to_send, to_receive = self._splits(samples)
        arrived = pooled.new_empty(sum(to_receive), pooled.shape[1])
        self.comm.all_to_all("pooled", arrived, pooled, to_receive, to_send).wait()
        return arrived

    def _bags(self, fetched: _PooledHere) -> Tensor:
        """They came rank by rank, table by table: [F, b, W + E]."""
        by_table = fetched.arrived.view(self.network.fields, -1, self.network.bag_width)
        place = table_order(self.network.fields, self.comm.world_size, by_table.device).argsort()
        return by_table[place].transpose(0, 1)

    def _send_back(self, grad: Tensor) -> tuple[Tensor, Handle | None]:
        by_table = grad.transpose(0, 1)[table_order(self.network.fields, self.comm.world_size, grad.device)]
        back, forth = self._splits(len(grad) * self.comm.world_size)
        message = by_table.reshape(-1, grad.shape[2])
        arrived = message.new_empty(sum(back), grad.shape[2])
        return arrived, self.comm.all_to_all("pooled_grad", arrived, message, back, forth)


class RowWise(_OwnersPool):
    """A table's rows are spread by hash: every worker pools what it holds of every bag."""

    name = "row_wise"

    def _deliver(self, pooled: Tensor, samples: int) -> Tensor:
        own = pooled.new_empty(len(pooled) // self.comm.world_size, pooled.shape[1])
        self.comm.reduce_scatter("pooled", own, pooled).wait()
        return own

    def _send_back(self, grad: Tensor) -> tuple[Tensor, Handle | None]:
        whole = grad.new_empty(len(grad) * self.comm.world_size, *grad.shape[1:])
        return whole, self.comm.all_gather("pooled_grad", whole, grad.contiguous())


class Mesh(_OwnersPool):
    """The operand is all-reduced and the dense part replicated: its gradients are everyone's already."""

    name = "mesh"
    loss_is_share = False

    def _deliver(self, pooled: Tensor, samples: int) -> Tensor:
        self.comm.all_reduce("pooled", pooled).wait()
        return pooled

    def _labels(self, batch: Batch, comm: Comm) -> tuple[Tensor, Handle | None]:
        labels = batch.labels.new_empty(len(batch) * comm.world_size)
        return labels, comm.all_gather("labels", labels, batch.labels)

    def _masks(self, batch: Batch) -> list[Tensor] | None:
        return self.network.masks(len(batch) * self.comm.world_size, self._step)

    def _send_dense_grads(self) -> SummedGrads:
        return SummedGrads(())

    def _gather_logits(self, logits: Tensor, samples: int) -> Tensor:
        return logits
