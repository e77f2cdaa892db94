"""Synchronous parameter server, executed: the plan `ps_sync` of dessim/workload/strategies/ps.py, op by op.

    split_ids -> id_counts, pull_keys | pull_dense (under way meanwhile), lookup -> pull_rows -> pool -> dense part
    push_dense (under way meanwhile) | scatter_grad -> push_keys, push_rows -> sum_grad -> update_rows -> update_dense

Every worker is also a server: of the rows that h(id) gives it, and of one shard of the dense parameters. A server
keeps nothing between a pull and its push, so keys come with both. Its update waits for the pushes of all workers, and
the next pull for the update, so training is that of one process.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.comm import Handle
from des_ref.strategies.base import Counts, Optimizers
from des_ref.strategies.dense_shards import DenseServer, DenseShards
from des_ref.strategies.dense_state import DenseState, export_state, load_state
from des_ref.strategies.row_all_to_all import RowAllToAll, RowsHere
from dessim.trace.schema import Phase

_WEIGHTS = "weights"


@dataclass(frozen=True, slots=True)
class _Pushed:
    """Dense gradients on their way to the servers."""

    arrived: Tensor
    _handle: Handle

    def wait(self) -> None:
        self._handle.wait()


class PsSync(RowAllToAll):
    """Servers on the workers; rows and dense parameters are pulled, their gradients pushed."""

    name = "ps_sync"
    keys_op, rows_op, grads_op = "pull_keys", "pull_rows", "push_rows"

    def _start_dense(self, optimizers: Optimizers) -> None:
        parameters = self.network.dense_parameters
        self._shards = DenseShards(parameters, self.comm.world_size)
        self._server = DenseServer(self._shards, parameters, self.comm.rank, optimizers)

    def _before(self) -> None:
        answer = self._server.weights.detach().repeat(self.comm.world_size)
        self._pulled = torch.empty_like(answer)
        self._pulling = self.comm.all_to_all("pull_dense", self._pulled, answer, None, None)

    def _before_dense(self) -> None:
        self._pulling.wait()
        self._shards.fill(self._pulled)

    def _return(self, fetched: RowsHere, message: Tensor) -> Tensor:
        self._pushed_keys = torch.empty_like(fetched.asked.keys)
        to_receive, to_send = fetched.asked.sizes, fetched.keys.sizes
        ready = self.comm.all_to_all("push_keys", self._pushed_keys, fetched.keys.cold, to_receive, to_send)
        arrived = super()._return(fetched, message)
        ready.wait()
        return arrived

    def _owned(self, fetched: RowsHere) -> tuple[Tensor, Tensor, Tensor]:
        unique, inverse = torch.unique(self._pushed_keys, return_inverse=True)
        return unique, inverse, self.table.find(unique)

    def _send_dense_grads(self) -> _Pushed:
        grads = self._shards.flat_grads()
        arrived = torch.empty_like(grads)
        return _Pushed(arrived, self.comm.all_to_all("push_dense", arrived, grads, None, None))

    def _step_dense(self, dense: _Pushed) -> None:
        dense.wait()
        with self.marks.segment("update_dense", Phase.OPTIMIZER):
            self._server.update(dense.arrived.view(self.comm.world_size, -1).sum(dim=0))

    def settle(self) -> None:
        weights = self._server.weights
        for values, fill in ((weights.detach(), self._shards.fill), (weights.grad, self._shards.fill_grads)):
            if values is not None:
                whole = values.new_empty(self.comm.world_size * len(values))
                self.comm.all_gather("settle", whole, values).wait()
                fill(whole)

    def dense_state(self) -> DenseState:
        """All weights as one vector, and what the servers' optimizers keep of it."""
        state = export_state(self._server.optimizer, {_WEIGHTS: self._server.weights})
        for key, shard in state.items():
            if shard.dim():  # else a count
                flat = shard.new_empty(self.comm.world_size * len(shard))
                self.comm.all_gather("checkpoint", flat, shard).wait()
                state[key] = self._shards.whole(flat)
        return state

    def load_dense(self, state: DenseState, step: int) -> None:
        shards, server = self._shards, self._server
        own = {key: server.own(shards.padded(whole)) if whole.dim() else whole for key, whole in state.items()}
        load_state(server.optimizer, {_WEIGHTS: server.weights}, own)
        self._step = step

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        found = super().op_vars(counts, samples)
        return found | {"push_keys": found[self.grads_op]}
