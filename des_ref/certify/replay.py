"""The oracle of asynchronous training: one process that applies pulls and pushes in the order that the servers logged.

A pull copies the reference's current parameters, a push steps the reference's optimizers with the gradient of the
worker's batch at the parameters that it pulled. Only the order comes from the servers; every value is computed here.

With several servers each has its own order and its own part of the parameters. A gradient needs the pulls of its step
from all of them, so a server's next push may have to wait for another server's pull.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from des_ref.data.batch import Batch
from des_ref.reference import Reference, ReferenceStep
from des_ref.strategies.ps_server import Request
from dessim.errors import SimulationError

Event = tuple[int, int, int]  # kind of request, worker, number of keys

_ENDED = object()


@dataclass(slots=True)
class _WorkerStep:
    """A worker's step: its samples and their places in the global batch, what it pulled, and its loss and gradients."""

    batch: Batch
    places: range
    pulled: dict[str, Tensor] = field(default_factory=dict)
    servers: int = 0  # that have answered its pull
    keys: int = 0  # in its pulls, of all servers
    result: ReferenceStep | None = None


class Replay:
    """A replay of `orders`, one for each server, on the global `batches` that `workers` workers trained on.

    `references[s]` holds all parameters; server s updates those where `server_of` is s. `server_of` has for each name
    an int64 tensor that broadcasts to the parameter's shape. `most_stale` is the largest staleness of a pull, in steps.
    """

    def __init__(
        self,
        references: Sequence[Reference],
        server_of: Mapping[str, Tensor],
        orders: Sequence[Sequence[Event]],
        batches: Sequence[Batch],
        workers: int,
    ) -> None:
        self._references = references
        self._server_of = server_of
        self._steps = [[_own(batch, w, workers) for batch in batches] for w in range(workers)]
        self.most_stale = 0
        self._run([self._events(s, order) for s, order in enumerate(orders)])

    def step(self, worker: int, number: int) -> tuple[ReferenceStep, Mapping[str, Tensor]]:
        """Loss and gradients of a worker's step, the loss being the mean over its own samples, and what it pulled."""
        step = self._steps[worker][number]
        if step.result is None:
            raise SimulationError(f"the servers applied no push of worker {worker} in step {number}")
        if step.keys != len(torch.unique(step.batch.ids)):
            raise SimulationError(f"worker {worker} pulled {step.keys} rows in step {number}, not those of its samples")
        return step.result, step.pulled

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters after the last push."""
        whole: dict[str, Tensor] = {}
        for server in range(len(self._references)):
            self._take(whole, server)
        return whole

    def _run(self, servers: list[Iterator[None]]) -> None:
        """Continue each server until it waits for another one; `_events` yields where it waits."""
        before = None
        while servers:
            if self._progress == before:
                raise SimulationError("the servers' orders contradict each other: a push precedes the pull of its step")
            before = self._progress
            servers = [server for server in servers if next(server, _ENDED) is not _ENDED]

    @property
    def _progress(self) -> int:
        return sum(step.servers for steps in self._steps for step in steps)

    def _events(self, server: int, order: Sequence[Event]) -> Iterator[None]:
        pulls = [0] * len(self._steps)
        pushes = [0] * len(self._steps)
        for kind, worker, keys in order:
            if kind == Request.PULL:
                step = self._steps[worker][pulls[worker]]
                self.most_stale = max(self.most_stale, pushes[worker] - min(pushes))
                self._take(step.pulled, server)
                step.servers += 1
                step.keys += keys
                pulls[worker] += 1
                continue
            step = self._steps[worker][pushes[worker]]
            while step.servers < len(self._references):
                yield
            if step.result is None:
                step.result = self._references[0].gradients(step.batch, step.pulled, pushes[worker], step.places)
            self._references[server].apply(step.batch, step.result.grads)
            pushes[worker] += 1

    def _take(self, into: dict[str, Tensor], server: int) -> None:
        """Copy a server's parameters."""
        for name, p in self._references[server].parameters.items():
            mine = (self._server_of[name] == server).expand_as(p)
            into[name] = torch.where(mine, p, into.get(name, p))


def _own(batch: Batch, worker: int, workers: int) -> _WorkerStep:
    """A worker's consecutive share of a global batch."""
    share = len(batch) // workers
    places = range(worker * share, (worker + 1) * share)
    mine = torch.div(batch.sample, share, rounding_mode="floor") == worker
    dense = None if batch.dense is None else batch.dense[places.start : places.stop]
    labels = batch.labels[places.start : places.stop]
    own = Batch(batch.ids[mine], batch.sample[mine] - places.start, batch.field[mine], labels, dense=dense)
    return _WorkerStep(own, places)
