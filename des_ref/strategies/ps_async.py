"""Asynchronous parameter server, a worker's side: the plan `ps_async`, with servers that are processes of their own.

    split_ids -> id_counts, pull_keys -> [the server: lookup] -> pull_rows, pull_dense -> pool -> dense part
    -> scatter_grad -> push_counts, push_keys, push_rows, push_dense -> [the server: update_rows, update_dense]

Each worker goes its own way: it waits for others only where the servers' bound on staleness makes it. A gradient is the
mean over the worker's own samples and is applied when it comes. So training is *not* that of one process, except with
one worker, where it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.comm import Comm, Message
from des_ref.data.batch import Batch
from des_ref.models.build import Network
from des_ref.strategies.base import Counts, Lane, Optimizers
from des_ref.strategies.dense_shards import DenseShards
from des_ref.strategies.dense_state import DenseState
from des_ref.strategies.exchange import Keys
from des_ref.strategies.ps_server import DENSE, KEYS, ROWS, START, Ask
from des_ref.strategies.sharded_base import ShardedBase, Updated
from des_ref.strategies.staleness import Tally
from dessim.errors import UsageError
from dessim.trace.schema import Phase


@dataclass(frozen=True, slots=True)
class _Pulled:
    """`values` [u, W] of `keys`, the leaf of the graph that ends in `pooled` [b * F, W + E]."""

    keys: Keys
    values: Tensor
    pooled: Tensor


class PsAsync(ShardedBase):
    """Pulls rows and dense parameters, pushes their gradients, and does not wait for the others."""

    name = "ps_async"

    def __init__(self, network: Network, optimizers: Optimizers, comm: Comm) -> None:
        if comm.wire is None:
            raise UsageError("ps_async needs server processes: start more processes than there are to be workers")
        self._wire = comm.wire
        super().__init__(network, optimizers, comm)

    # -- messages -------------------------------------------------------------------------------------------------

    def _ask(self, kind: Ask, keys: Tensor, sizes: list[int], names: tuple[str, str]) -> list[Message | None]:
        """Start a message to each server: the keys it owns. `names` are the ops of its start and of its keys."""
        sent = []
        for server, part in zip(self._wire.servers, keys.cpu().split(sizes), strict=True):
            start = torch.tensor([len(part) * len(Ask) + kind])
            sent.append(self._wire.send(names[0], start, server, START))
            sent.append(self._wire.send(names[1], part, server, KEYS))
        return sent

    def _pull(self, kind: Ask, keys: Tensor, sizes: list[int]) -> Tensor:
        """Rows [u, W] of keys in the order of their servers; the dense parameters are written into the network."""
        wire, cpu = self._wire, torch.device("cpu")
        width = sum(self.network.row_widths.values())
        rows = torch.empty(len(keys), width, dtype=self.network.dtype, device=cpu)
        dense = torch.empty(self._shards.servers, self._shards.share, dtype=self.network.dtype, device=cpu)
        # Ready to receive before anything is asked: a server's answer never has to wait for this worker.
        answers = []
        for server, part, shard in zip(wire.servers, rows.split(sizes), dense, strict=True):
            answers.append(wire.receive("pull_rows", part, server, ROWS))
            answers.append(wire.receive("pull_dense", shard, server, DENSE))
        _wait(self._ask(kind, keys, sizes, ("id_counts", "pull_keys")) + answers)
        self._shards.fill(dense.view(-1).to(self.network.device))
        return rows.to(self.network.device)

    # -- the frame's holes ----------------------------------------------------------------------------------------

    def _start_dense(self, optimizers: Optimizers) -> None:
        self._shards = DenseShards(self.network.dense_parameters, len(self._wire.servers))

    def _averaged(self, samples: int) -> int:
        return samples // self.comm.world_size

    def _send_ids(self, batch: Batch, lane: Lane) -> Keys:
        with lane.marks.segment("split_ids", Phase.INPUT):
            return Keys.of(batch.ids, len(self._wire.servers))

    def _fetch(self, batch: Batch, ids: Keys, train: bool) -> _Pulled:
        values = self._pull(Ask.PULL if train else Ask.LOOK, ids.unique, ids.sizes)
        with self.marks.segment("pool", Phase.FORWARD):
            values.requires_grad_(train)
            bag = batch.sample * self.network.fields + batch.field
            pooled = self._pooled(values, ids.inverse, bag, len(batch) * self.network.fields)
        return _Pulled(ids, values, pooled)

    def _bags(self, fetched: _Pulled) -> Tensor:
        return fetched.pooled.view(-1, self.network.fields, self.network.bag_width)

    def _learn(self, fetched: _Pulled, grad: Tensor) -> tuple[Updated, dict[str, Tensor]]:
        """Push; no row is updated here."""
        keys, wire = fetched.keys, self._wire
        with self.marks.segment("scatter_grad", Phase.BACKWARD):
            fetched.pooled.backward(grad.view(fetched.pooled.shape))
            rows = fetched.values.grad.cpu()
            dense = self._shards.flat_grads().cpu().view(self._shards.servers, -1)
        sent = self._ask(Ask.PUSH, keys.unique, keys.sizes, ("push_counts", "push_keys"))
        for server, part, shard in zip(wire.servers, rows.split(keys.sizes), dense, strict=True):
            sent.append(wire.send("push_rows", part, server, ROWS))
            sent.append(wire.send("push_dense", shard, server, DENSE))
        _wait(sent)
        none = keys.unique[:0]
        return Updated(none, none, rows[:0]), {}

    def _counts(self, batch: Batch, fetched: _Pulled, updated: Updated) -> Counts:
        return Counts(ids_sent=len(batch.ids), keys=len(fetched.keys.unique))

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        """Where a formula counts shards, N is the number of servers."""
        m = counts.ids_sent * self.comm.world_size / samples
        own = {"m": m, "u": float(counts.keys)}
        shards = {"u": float(counts.keys), "N": float(self._shards.servers)}
        names = [op.name for op in self.plan.collectives]
        return dict.fromkeys(("split_ids", "pool", "scatter_grad"), own) | dict.fromkeys(names, shards)

    def dense_state(self) -> DenseState:
        raise UsageError("ps_async keeps no checkpoints: rows are on its servers; ps_sync does")

    # -- outside of steps -----------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Wait until every worker's pushes are applied, then pull the dense parameters."""
        nothing, sizes = torch.empty(0, dtype=torch.int64), [0] * self._shards.servers
        # A server takes a worker's messages in order: an answer shows that the pushes before it are applied.
        self._pull(Ask.LOOK, nothing, sizes)
        self.comm.barrier()
        self._pull(Ask.LOOK, nothing, sizes)

    def look(self, ids: Tensor) -> dict[str, Tensor]:
        """Values [n, width] of different ids as the servers hold them now."""
        keys, widths = Keys.of(ids, self._shards.servers), self.network.row_widths
        rows = self._pull(Ask.LOOK, keys.unique, keys.sizes)[keys.inverse]
        return dict(zip(widths, rows.split(list(widths.values()), dim=1), strict=True))

    def close(self) -> Tally:
        """Let the servers go: how stale pulls were, of all workers, at all servers."""
        wire, total = self._wire, Tally()
        self.settle()
        for server in wire.servers:
            numbers = torch.zeros(5, dtype=torch.int64)
            answer = wire.receive("tally", numbers, server, DENSE)
            _wait([wire.send("done", torch.tensor([int(Ask.DONE)]), server, START), answer])
            total.add(Tally(*numbers.tolist()))
        return total


def _wait(messages: list[Message | None]) -> None:
    for message in messages:
        if message is not None:
            message.wait()
