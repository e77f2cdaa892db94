"""A dedicated parameter-server process: it answers pulls and applies pushes, one request at a time.

A request starts with an 8-byte header, 4 * keys + kind. Its further parts have their own tags, so that they cannot be
mistaken for the header of another request:

    PULL  keys                    -> rows, dense shard, when the worker may have them (des_ref.strategies.staleness)
    PUSH  keys, rows, dense shard    gradients, applied at once
    READ  keys                    -> rows, dense shard; inserts nothing and never waits (evaluation)
    DONE                          -> 5 numbers, the StalenessStats of this server

The certificate also asks for the order of pulls and pushes, which it replays in one process.

The server ends when every worker is done, and fails if no message arrives within the wire's timeout.
"""

from __future__ import annotations

from dataclasses import astuple
from enum import IntEnum

import torch
from torch import Tensor

from des_ref.comm import Comm
from des_ref.embedding.widths import new_message, packed, unpacked
from des_ref.models.build import Network
from des_ref.strategies.base import Optimizers
from des_ref.strategies.dense_shards import DenseServer, DenseShards
from des_ref.strategies.staleness import Clocks

# Tags of the parts of a request.
START = 1
KEYS = 2
ROWS = 3
DENSE = 4
ORDER = 5  # from a server to worker 0, after the last step, for the certificate


class Request(IntEnum):
    """Kinds of requests."""

    PULL = 0
    PUSH = 1
    READ = 2
    DONE = 3


class Server:
    """Holds the rows that h(id) mod S assigns to this server, and its shard of the dense parameters.

    `network` must be on the CPU. `staleness` is the bound in steps. With `keep_order`, `order` grows by one entry for
    each pull and push, in the order in which they took effect: kind, worker, number of keys.
    """

    def __init__(
        self, network: Network, optimizers: Optimizers, comm: Comm, staleness: int, keep_order: bool = False
    ) -> None:
        assert comm.wire is not None
        self._wire = comm.wire
        self._network = network
        self._widths = network.row_widths
        self.table = network.new_table(optimizers.rows, optimizers.init_std)
        shards = DenseShards(network.dense_parameters, len(self._wire.servers))
        self._dense = DenseServer(shards, network.dense_parameters, comm.rank - comm.world_size, optimizers)
        self._rows = optimizers.rows
        self._clocks = Clocks(comm.world_size, staleness)
        self.order: list[tuple[Request, int, int]] | None = [] if keep_order else None
        self._waiting: dict[int, Tensor] = {}  # keys of pulls that must wait, by worker, in order of arrival

    def serve(self) -> None:
        """Handle requests until every worker is done. Raises DessimError when workers die or fall silent."""
        header = torch.empty(1, dtype=torch.int64)
        while not self._clocks.all_finished:
            worker = self._wire.receive_any(header, START)
            count, kind = divmod(int(header), len(Request))
            keys = torch.empty(count, dtype=torch.int64)
            self._receive("keys", keys, worker, KEYS)
            match Request(kind):
                case Request.PULL:
                    self._waiting[worker] = keys
                case Request.PUSH:
                    self._apply(worker, keys)
                case Request.READ:
                    self._reply(worker, keys, self.table.gather(keys, tuple(self._widths)))
                case Request.DONE:
                    self._clocks.finish(worker)
                    self._send("tally", torch.tensor(astuple(self._clocks.stats)), worker, DENSE)
            for ready in [w for w in self._waiting if self._clocks.may_pull(w)]:
                self._pull(ready, self._waiting.pop(ready))

    def _pull(self, worker: int, keys: Tensor) -> None:
        self._clocks.pull(worker)
        self._note(Request.PULL, worker, keys)
        rows = self.table.find_or_insert(keys)
        self._reply(worker, keys, self.table.values(keys, rows, tuple(self._widths)))

    def _reply(self, worker: int, keys: Tensor, columns: dict[str, Tensor]) -> None:
        rows = torch.cat(list(columns.values()), dim=1)
        self._send("rows", packed(rows, self._network.has_columns(keys)), worker, ROWS)
        self._send("dense", self._dense.weights.detach(), worker, DENSE)

    def _apply(self, worker: int, keys: Tensor) -> None:
        has = self._network.has_columns(keys)
        message = new_message(self._dense.weights.new_empty(0, sum(self._widths.values())), len(keys), has)
        dense = torch.empty_like(self._dense.weights)
        self._receive("rows", message, worker, ROWS)
        self._receive("dense", dense.detach(), worker, DENSE)
        rows = self.table.find(keys)
        parts = unpacked(message, has).split(list(self._widths.values()), dim=1)
        self.table.update(self._rows, rows, dict(zip(self._widths, parts, strict=True)))
        self._dense.update(dense)
        self._clocks.push(worker)
        self._note(Request.PUSH, worker, keys)

    def _note(self, kind: Request, worker: int, keys: Tensor) -> None:
        if self.order is not None:
            self.order.append((kind, worker, len(keys)))

    def _send(self, name: str, tensor: Tensor, worker: int, tag: int) -> None:
        if (message := self._wire.send(name, tensor.contiguous(), worker, tag)) is not None:
            message.wait()

    def _receive(self, name: str, tensor: Tensor, worker: int, tag: int) -> None:
        if (message := self._wire.receive(name, tensor, worker, tag)) is not None:
            message.wait()
