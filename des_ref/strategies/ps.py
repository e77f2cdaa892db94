"""Synchronous parameter server, executed: the plan `ps_sync` of dessim/workload/strategies/ps.py, op by op.

    split_ids -> id_counts, pull_keys | pull_dense (overlapped), lookup -> pull_rows -> pool -> dense part
    push_dense (overlapped) | scatter_grad -> push_keys, push_rows -> sum_grad -> update_rows -> update_dense

Every worker is also a server: for the rows that h(id) assigns to it, and for one shard of the dense parameters. A
server keeps no state between a pull and its push, so keys are sent with both. Its update waits for the pushes of all
workers, and the next pull waits for the update, so training is equivalent to one process.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.comm import Handle
from des_ref.strategies.base import Counts, Optimizers
from des_ref.strategies.dense_shards import DenseServer, DenseShards
from des_ref.strategies.dense_state import DenseState, export_state, load_state
from des_ref.strategies.in_turn import Part
from des_ref.strategies.row_all_to_all import FetchedRows, RowAllToAll
from des_ref.substitution.owned import unique_with_index
from des_ref.substitution.sums import RowIndex
from dessim.trace.schema import Phase

_WEIGHTS = "weights"


@dataclass(frozen=True, slots=True)
class _PushedDenseGrads:
    """Dense gradients in flight to the servers; `received` are those of this server's shard, from all workers."""

    received: Tensor
    _handle: Handle

    def wait(self) -> None:
        self._handle.wait()


class PsSync(RowAllToAll):
    """Servers on the workers; rows and dense parameters are pulled, their gradients pushed."""

    name = "ps_sync"
    keys_op = "pull_keys"
    rows_op = "pull_rows"
    grads_op = "push_rows"

    def _start_dense(self, optimizers: Optimizers) -> None:
        parameters = self.network.dense_parameters
        self._shards = DenseShards(parameters, self.comm.world_size)
        self._server = DenseServer(self._shards, parameters, self.comm.rank, optimizers)

    def _before(self) -> None:
        reply = self._server.weights.detach().repeat(self.comm.world_size)
        self._pulled = torch.empty_like(reply)
        self._pulling = self.comm.all_to_all("pull_dense", self._pulled, reply, None, None)

    def _before_dense(self) -> None:
        self._pulling.wait()
        self._shards.fill(self._pulled)

    def _return_grads(self, fetched: FetchedRows, grads: Tensor) -> Part[Tensor]:
        keys = fetched.routed.keys
        requested = fetched.routed.requested
        self._pushed_keys = torch.empty_like(requested.keys)
        ready = self.comm.all_to_all("push_keys", self._pushed_keys, keys.cold, requested.sizes, keys.sizes)
        received = yield from super()._return_grads(fetched, grads)
        yield ready
        return received

    def _pushed_rows(self, fetched: FetchedRows) -> tuple[Tensor, RowIndex, Tensor]:
        unique, index = unique_with_index(self._pushed_keys)
        return unique, index, self.table.find(unique)

    def _send_dense_grads(self) -> _PushedDenseGrads:
        grads = self._shards.flat_grads()
        received = torch.empty_like(grads)
        return _PushedDenseGrads(received, self.comm.all_to_all("push_dense", received, grads, None, None))

    def _step_dense(self, dense: _PushedDenseGrads) -> None:
        dense.wait()
        with self.marks.segment("update_dense", Phase.OPTIMIZER):
            self._server.update(dense.received.view(self.comm.world_size, -1).sum(dim=0))

    def settle(self) -> None:
        weights = self._server.weights
        for values, fill in ((weights.detach(), self._shards.fill), (weights.grad, self._shards.fill_grads)):
            if values is not None:
                whole = values.new_empty(self.comm.world_size * len(values))
                self.comm.all_gather("settle", whole, values).wait()
                fill(whole)

    def dense_state(self) -> DenseState:
        """All weights as one vector, and the state that the servers' optimizers keep for it."""
        state = export_state(self._server.optimizer, {_WEIGHTS: self._server.weights})
        for key, shard in state.items():
            if shard.dim():  # others are step counts
                flat = shard.new_empty(self.comm.world_size * len(shard))
                self.comm.all_gather("checkpoint", flat, shard).wait()
                state[key] = self._shards.whole(flat)
        return state

    def load_dense(self, state: DenseState, step: int) -> None:
        shards = self._shards
        server = self._server
        own = {key: server.own(shards.padded(whole)) if whole.dim() else whole for key, whole in state.items()}
        load_state(server.optimizer, {_WEIGHTS: server.weights}, own)
        self._step = step

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        variables = super().op_vars(counts, samples)
        return variables | {"push_keys": variables[self.grads_op]}
