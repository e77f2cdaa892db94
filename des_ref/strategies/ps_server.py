"""A parameter server as a process of its own: it answers pulls and applies pushes, one message at a time.

A message starts with 8 bytes, 4 * keys + kind. What follows has its own tag, so that it cannot be taken for another's
start:

    PULL  keys                    -> rows, dense shard, once the worker may have them (des_ref.strategies.staleness)
    PUSH  keys, rows, dense shard    gradients, applied at once
    LOOK  keys                    -> rows, dense shard; nothing is inserted and nobody waits (evaluation)
    DONE                          -> 5 numbers, the Tally of this server

It ends when every worker is done, and fails when no message comes for the wire's patience.
"""

from __future__ import annotations

from dataclasses import astuple
from enum import IntEnum

import torch
from torch import Tensor

from des_ref.comm import Comm
from des_ref.models.build import Network
from des_ref.strategies.base import Optimizers
from des_ref.strategies.dense_shards import DenseServer, DenseShards
from des_ref.strategies.staleness import Clocks

START, KEYS, ROWS, DENSE = 1, 2, 3, 4  # tags


class Ask(IntEnum):
    """What a message is."""

    PULL = 0
    PUSH = 1
    LOOK = 2
    DONE = 3


class Server:
    """Rows that h(id) mod S names this server for, and its shard of the dense parameters. `network` is on the CPU."""

    def __init__(self, network: Network, optimizers: Optimizers, comm: Comm, staleness: int) -> None:
        assert comm.wire is not None
        self._wire, self._widths = comm.wire, network.row_widths
        self.table = network.new_table(optimizers.rows, optimizers.init_std)
        shards = DenseShards(network.dense_parameters, len(self._wire.servers))
        self._dense = DenseServer(shards, network.dense_parameters, comm.rank - comm.world_size, optimizers)
        self._rows = optimizers.rows
        self._clocks = Clocks(comm.world_size, staleness)
        self._waiting: dict[int, Tensor] = {}  # keys by worker, in order of arrival

    def serve(self) -> None:
        """Answer until every worker is done. Raises DessimError when workers fall silent or go away."""
        start = torch.empty(1, dtype=torch.int64)
        while not self._clocks.all_finished:
            worker = self._wire.receive_any(start, START)
            count, kind = divmod(int(start), len(Ask))
            keys = torch.empty(count, dtype=torch.int64)
            self._take("keys", keys, worker, KEYS)
            match Ask(kind):
                case Ask.PULL:
                    self._waiting[worker] = keys
                case Ask.PUSH:
                    self._apply(worker, keys)
                case Ask.LOOK:
                    self._answer(worker, self.table.gather(keys, tuple(self._widths)))
                case Ask.DONE:
                    self._clocks.finish(worker)
                    self._give("tally", torch.tensor(astuple(self._clocks.tally)), worker, DENSE)
            for waiting in [w for w in self._waiting if self._clocks.may_pull(w)]:
                self._pull(waiting, self._waiting.pop(waiting))

    def _pull(self, worker: int, keys: Tensor) -> None:
        self._clocks.pull(worker)
        rows = self.table.find_or_insert(keys)
        self._answer(worker, {name: self.table.columns[name][rows] for name in self._widths})

    def _answer(self, worker: int, columns: dict[str, Tensor]) -> None:
        self._give("rows", torch.cat(list(columns.values()), dim=1), worker, ROWS)
        self._give("dense", self._dense.weights.detach(), worker, DENSE)

    def _apply(self, worker: int, keys: Tensor) -> None:
        grads = self._dense.weights.new_empty(len(keys), sum(self._widths.values()))
        dense = torch.empty_like(self._dense.weights)
        self._take("rows", grads, worker, ROWS)
        self._take("dense", dense.detach(), worker, DENSE)
        rows = self.table.find(keys)
        parts = grads.split(list(self._widths.values()), dim=1)
        self._rows.update(self.table, rows, dict(zip(self._widths, parts, strict=True)))
        self._dense.update(dense)
        self._clocks.push(worker)

    def _give(self, name: str, tensor: Tensor, worker: int, tag: int) -> None:
        if (message := self._wire.send(name, tensor.contiguous(), worker, tag)) is not None:
            message.wait()

    def _take(self, name: str, tensor: Tensor, worker: int, tag: int) -> None:
        if (message := self._wire.receive(name, tensor, worker, tag)) is not None:
            message.wait()
