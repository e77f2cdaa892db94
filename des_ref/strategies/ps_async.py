"""Asynchronous parameter server, the worker's side: the plan `ps_async`, with dedicated server processes.

    split_ids -> id_counts, pull_keys -> [server: lookup] -> pull_rows, pull_dense -> pool -> dense part
    -> scatter_grad -> push_counts, push_keys, push_rows, push_dense -> [server: update_rows, update_dense]

Workers do not synchronise; a worker waits for others only where the servers' bound on staleness requires it. A gradient
is the mean over the worker's own samples and is applied when it arrives. So training is *not* equivalent to one
process, except with a single worker.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from des_ref.comm import Comm, Message
from des_ref.data.batch import Batch
from des_ref.embedding.widths import message_sizes, new_message, packed, unpacked
from des_ref.models.build import Network
from des_ref.strategies.base import Counts, Lane, Optimizers, mean_width
from des_ref.strategies.dense_shards import DenseShards
from des_ref.strategies.dense_state import DenseState
from des_ref.strategies.exchange import Keys
from des_ref.strategies.in_turn import Part
from des_ref.strategies.ps_server import DENSE, KEYS, ROWS, START, Request
from des_ref.strategies.sharded_base import RowGradients, ShardedBase
from des_ref.strategies.staleness import StalenessStats
from dessim.errors import UsageError
from dessim.trace.schema import Phase


@dataclass(frozen=True, slots=True)
class _PulledRows:
    """`values` [u, W] of `keys`, the leaf of the graph that computes `pooled` [b * F, W + E]."""

    keys: Keys
    values: Tensor
    pooled: Tensor


class PsAsync(ShardedBase):
    """Pulls rows and dense parameters and pushes their gradients, without waiting for other workers."""

    name = "ps_async"

    def __init__(self, network: Network, optimizers: Optimizers, comm: Comm) -> None:
        if comm.wire is None:
            raise UsageError("ps_async needs server processes in addition to the workers: start more processes")
        self._wire = comm.wire
        super().__init__(network, optimizers, comm)

    # -- messages -------------------------------------------------------------------------------------------------

    def _request(self, kind: Request, keys: Tensor, sizes: list[int], names: tuple[str, str]) -> list[Message | None]:
        """Start a request to each server with the keys it owns; `names` are the ops of its header and of its keys."""
        sent = []
        for server, part in zip(self._wire.servers, keys.cpu().split(sizes), strict=True):
            header = torch.tensor([len(part) * len(Request) + kind])
            sent.append(self._wire.send(names[0], header, server, START))
            sent.append(self._wire.send(names[1], part, server, KEYS))
        return sent

    def _pull(self, kind: Request, keys: Tensor, sizes: list[int]) -> Tensor:
        """Rows [u, W] of `keys`, which are ordered by server; also writes the dense parameters into the network."""
        wire = self._wire
        cpu = torch.device("cpu")
        has = self.network.has_columns(keys)
        row = torch.empty(0, sum(self.network.row_widths.values()), dtype=self.network.dtype, device=cpu)
        message = new_message(row, len(keys), has)
        dense = torch.empty(self._shards.servers, self._shards.share, dtype=self.network.dtype, device=cpu)
        # Post the receives before the requests, so that a server's reply never waits for this worker.
        replies = []
        parts = message.split(message_sizes(sizes, has))
        for server, part, shard in zip(wire.servers, parts, dense, strict=True):
            replies.append(wire.receive("pull_rows", part, server, ROWS))
            replies.append(wire.receive("pull_dense", shard, server, DENSE))
        _wait(self._request(kind, keys, sizes, ("id_counts", "pull_keys")) + replies)
        self._shards.fill(dense.view(-1).to(self.network.device))
        return unpacked(message, None if has is None else has.cpu()).to(self.network.device)

    # -- a step ---------------------------------------------------------------------------------------------------

    def _start_dense(self, optimizers: Optimizers) -> None:
        self._shards = DenseShards(self.network.dense_parameters, len(self._wire.servers))

    def _averaged(self, samples: int) -> int:
        return samples // self.comm.world_size

    def _send_ids(self, batch: Batch, lane: Lane) -> Keys:
        with lane.marks.segment("split_ids", Phase.INPUT):
            return Keys.of(batch.ids, len(self._wire.servers))

    def _fetch(self, batch: Batch, ids: Keys, train: bool) -> Part[_PulledRows]:
        values = self._pull(Request.PULL if train else Request.READ, ids.unique, ids.sizes)
        with self.marks.segment("pool", Phase.FORWARD):
            values.requires_grad_(train)
            pooled = self._pooled_at_samples(values, ids.inverse, batch)
        yield from ()  # its messages are not collectives, and have arrived
        return _PulledRows(ids, values, pooled)

    def _bags(self, fetched: _PulledRows) -> Tensor:
        return fetched.pooled.view(-1, self.network.fields, self.network.bag_width)

    def _learn(self, fetched: _PulledRows, grad: Tensor) -> tuple[RowGradients, dict[str, Tensor]]:
        """Push the gradients; the servers update rows and parameters."""
        keys = fetched.keys
        wire = self._wire
        with self.marks.segment("scatter_grad", Phase.BACKWARD):
            fetched.pooled.backward(grad.view(fetched.pooled.shape))
            has = self.network.has_columns(keys.unique)
            rows = packed(fetched.values.grad, has).cpu()
            dense = self._shards.flat_grads().cpu().view(self._shards.servers, -1)
        sent = self._request(Request.PUSH, keys.unique, keys.sizes, ("push_counts", "push_keys"))
        for server, part, shard in zip(wire.servers, rows.split(message_sizes(keys.sizes, has)), dense, strict=True):
            sent.append(wire.send("push_rows", part, server, ROWS))
            sent.append(wire.send("push_dense", shard, server, DENSE))
        _wait(sent)
        grads = fetched.values.grad
        return RowGradients(keys.unique[:0], keys.unique, grads), self._by_column(grads)

    def _counts(self, batch: Batch, fetched: _PulledRows, row_grads: RowGradients) -> Counts:
        keys = fetched.keys.unique
        return Counts(ids_sent=len(batch.ids), keys=len(keys), key_floats=self.network.floats(keys))

    def op_vars(self, counts: Counts, samples: int) -> dict[str, dict[str, float]]:
        """In formulas of messages to servers, N is the number of servers."""
        m = counts.ids_sent * self.comm.world_size / samples
        own = {"m": m, "u": float(counts.keys)} | mean_width("Wu", counts.keys, counts.key_floats)
        shards = own | {"N": float(self._shards.servers)}
        names = [op.name for op in self.plan.collectives]
        return dict.fromkeys(("split_ids", "pool", "scatter_grad"), own) | dict.fromkeys(names, shards)

    def dense_state(self) -> DenseState:
        raise UsageError("ps_async does not support checkpoints, because its servers hold the rows; use ps_sync")

    # -- outside of steps -----------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Wait until the pushes of all workers are applied, then pull the dense parameters."""
        no_keys = torch.empty(0, dtype=torch.int64)
        sizes = [0] * self._shards.servers
        # A server handles a worker's messages in order, so a reply shows that earlier pushes have been applied.
        self._pull(Request.READ, no_keys, sizes)
        self.comm.barrier()
        self._pull(Request.READ, no_keys, sizes)

    def read_rows(self, ids: Tensor) -> dict[str, Tensor]:
        """Values [n, width] of distinct ids as the servers currently hold them, by column."""
        keys = Keys.of(ids, self._shards.servers)
        return self._by_column(self._pull(Request.READ, keys.unique, keys.sizes)[keys.inverse])

    def close(self) -> StalenessStats:
        """Release the servers; returns the staleness of all pulls at all servers."""
        wire = self._wire
        total = StalenessStats()
        self.settle()
        for server in wire.servers:
            numbers = torch.zeros(5, dtype=torch.int64)
            reply = wire.receive("tally", numbers, server, DENSE)
            _wait([wire.send("done", torch.tensor([int(Request.DONE)]), server, START), reply])
            total.add(StalenessStats(*numbers.tolist()))
        return total


def _wait(messages: list[Message | None]) -> None:
    for message in messages:
        if message is not None:
            message.wait()
