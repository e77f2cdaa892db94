"""A case of ps_async: its values against a replay in one process, how stale its pulls were, and its bytes.

Data, model and optimizers are those of the other cases; n workers train, and further processes serve. The servers log
the order of pulls and pushes. One process replays that order (replay.py), and each worker's loss, gradients and pulled
dense parameters in each step, and all parameters after the last, must equal those of the replay. The distance from
synchronous training in one process is reported, too: zero with one worker, and no failure with more. Each worker's
messages are counted where they are handed to torch.distributed. There are no foreign rows to poison, because servers
hold every row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from des_ref.certify.compare import State, distance, row_grads, worst_differences
from des_ref.certify.replay import Event, Replay
from des_ref.comm import Comm, Message
from des_ref.data.batch import Batch, slice_of
from des_ref.hashing import owner_of
from des_ref.models.build import Network
from des_ref.reference import Reference
from des_ref.strategies.base import Optimizers, StepResult
from des_ref.strategies.ps_async import PsAsync
from des_ref.strategies.ps_server import ORDER, Server
from dessim.workload.model import Model
from dessim.workload.symbol_values import value_bytes

SERVERS = 2
TIMEOUT_S = 120.0  # after which a silent process counts as dead


def measure(
    comm: Comm, model: Model, optimizers: Optimizers, *, seed: int, batches: list[Batch], staleness: int
) -> dict[str, Any] | None:
    """Train on global batches. Returns the case's part of the JSON object on rank 0, None on other processes.

    `comm` comes from `Comm.with_servers`; workers and servers are in host memory. Every process calls this function.
    """
    network = Network(model, seed, torch.float64, comm.device)
    if comm.rank >= comm.world_size:
        server = Server(network, optimizers, comm, staleness, keep_order=True)
        server.serve()
        _send_order(comm, server)
        return None
    strategy = PsAsync(network, optimizers, comm)
    traffic = _Traffic(strategy, comm, model, len(batches[0]))
    vocabulary = torch.unique(torch.cat([b.ids for b in batches]))
    on_device = vocabulary.to(comm.device)
    records = []
    for batch in batches:
        traffic.clear()
        result = strategy.step(slice_of(batch, comm.rank, comm.world_size).to(comm.device))
        traffic.add_step(result)
        records.append(_record(network, result, on_device))
    strategy.settle()
    pulled = strategy.read_rows(on_device) | {f"dense.{i}": p.detach() for i, p in enumerate(network.dense_parameters)}
    parameters = {name: values.cpu() for name, values in pulled.items()}
    tally = strategy.close()
    ops, has_unplanned = traffic.gather()
    of_all = _gathered(comm, records)
    if comm.rank:
        return None

    def reference() -> Reference:
        return Reference(Network(model, seed, torch.float64, "cpu"), optimizers, vocabulary)

    orders = [_receive_order(comm, server) for server in comm.wire.servers] if comm.wire is not None else []
    server_of = _server_of(network, vocabulary, len(orders))
    replay = Replay([reference() for _ in orders], server_of, orders, batches, comm.world_size)
    worst = {"max_loss_diff": 0.0, "max_grad_diff": 0.0, "max_param_diff": distance(parameters, replay.parameters)}
    for worker, steps in enumerate(of_all):
        for number, record in enumerate(steps):
            truth = _truth(replay, worker, number, comm.world_size)
            worst_differences(worst, _state(record, truth), truth)
    synchronous = reference()
    for batch in batches:
        synchronous.step(batch)
    stale = tally.to_json()
    return {
        "ranks": comm.world_size,
        "servers": len(orders),
        "equivalent": comm.world_size == 1,
        # The replay counts staleness anew from the order, so that a server cannot understate it.
        "staleness": {"bound": staleness, **stale, "max": max(stale["max"], replay.most_stale)},
        **worst,
        "synchronous_param_diff": distance(parameters, synchronous.parameters),
        "bytes_match": not any(op["mismatches"] for op in ops) and not has_unplanned,
        "ops": ops,
    }


def _send_order(comm: Comm, server: Server) -> None:
    """Send a server's order to worker 0: the number of its events, then the events."""
    assert comm.wire is not None and server.order is not None
    events = torch.tensor(server.order, dtype=torch.int64).view(-1, 3)
    for tensor in (torch.tensor([len(events)]), events):
        _wait(comm.wire.send("order", tensor, 0, ORDER))


def _receive_order(comm: Comm, server: int) -> list[Event]:
    assert comm.wire is not None
    count = torch.zeros(1, dtype=torch.int64)
    _wait(comm.wire.receive("order", count, server, ORDER))
    events = torch.zeros(int(count), 3, dtype=torch.int64)
    _wait(comm.wire.receive("order", events, server, ORDER))
    return [(kind, worker, keys) for kind, worker, keys in events.tolist()]


def _wait(message: Message | None) -> None:
    if message is not None:
        message.wait()


def _server_of(network: Network, vocabulary: Tensor, servers: int) -> dict[str, Tensor]:
    """The server of each parameter, by name: that of its row's id, or of its place in the vector of dense weights."""
    of_row = owner_of(vocabulary, servers)[:, None]
    sizes = [p.numel() for p in network.dense_parameters]
    share = -(-sum(sizes) // servers)
    shards = (torch.arange(sum(sizes)) // share).split(sizes)
    dense = {f"dense.{i}": s.view_as(p) for i, (s, p) in enumerate(zip(shards, network.dense_parameters, strict=True))}
    return dict.fromkeys(network.row_widths, of_row) | dense


def _record(network: Network, result: StepResult, vocabulary: Tensor) -> Tensor:
    """A worker's step as one vector: loss, gradients of all rows, gradients and values of the dense parameters."""
    parts = [result.loss.reshape(1), *(grad.view(-1) for grad in row_grads(network, vocabulary, result).values())]
    parts += [torch.zeros_like(p).view(-1) if p.grad is None else p.grad.view(-1) for p in network.dense_parameters]
    return torch.cat([*parts, *(p.detach().view(-1) for p in network.dense_parameters)])


def _gathered(comm: Comm, records: Sequence[Tensor]) -> Tensor:
    """[workers, steps, n] on every worker."""
    own = torch.stack(list(records))
    out = own.new_empty(comm.world_size * len(own), own.shape[1])
    comm.all_gather("certificate", out, own).wait()
    return out.view(comm.world_size, *own.shape).cpu()


def _truth(replay: Replay, worker: int, number: int, workers: int) -> State:
    """The replay's state of a worker's step; the loss is the worker's part of the mean over the global batch."""
    step, pulled = replay.step(worker, number)
    dense = {name: p for name, p in pulled.items() if name.startswith("dense.")}
    return State(step.loss / workers, step.grads, dense)


def _state(record: Tensor, like: State) -> State:
    """The reverse of `_record`, for a state shaped like `like`."""
    tensors = [*like.grads.values(), *like.parameters.values()]
    loss, *parts = record.split([1, *(t.numel() for t in tensors)])
    shaped = [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]
    grads = dict(zip(like.grads, shaped, strict=False))
    return State(float(loss), grads, dict(zip(like.parameters, shaped[len(grads) :], strict=True)))


class _Traffic:
    """Bytes that a worker and its servers sent each other, by op: recorded, and by formula."""

    def __init__(self, strategy: PsAsync, comm: Comm, model: Model, samples: int) -> None:
        assert comm.wire is not None
        self._strategy = strategy
        self._comm = comm
        self._wire = comm.wire
        self._samples = samples
        self._symbols = model.symbols(comm.world_size, samples) | value_bytes(strategy.value_bytes)
        self._recorded: Counter[str] = Counter()
        self._planned: Counter[str] = Counter()
        self._mismatches: Counter[str] = Counter()

    def clear(self) -> None:
        """Forget messages sent before the next step."""
        self._wire.moved.clear()

    def add_step(self, result: StepResult) -> None:
        """Compare the bytes moved since `clear` with the formulas of a step."""
        variables = self._strategy.op_vars(result.counts, self._samples)
        planned = {op.name: op.bytes({**self._symbols, **variables[op.name]}) for op in self._strategy.plan.collectives}
        moved = self._wire.moved
        self._mismatches.update(name for name in {**planned, **moved} if moved[name] != planned.get(name, 0))
        self._recorded.update(moved)
        self._planned.update(planned)

    def gather(self) -> tuple[list[dict[str, Any]], bool]:
        """Totals over workers, one dict per op, and whether any op moved bytes that the plan does not name."""
        names = [op.name for op in self._strategy.plan.collectives]
        counters = (self._recorded, self._planned, self._mismatches)
        own = [float(counter[name]) for name in names for counter in counters]
        sums = self._comm.gather_rows("certificate", own)
        unplanned = sum(self._mismatches.values()) - sum(self._mismatches[name] for name in names)
        all_unplanned = self._comm.gather_rows("certificate", [float(unplanned)])
        totals = torch.tensor(sums).sum(dim=0).view(len(names), len(counters)).long().tolist()
        ops = [self._total(name, row) for name, row in zip(names, totals, strict=True)]
        return ops, any(row[0] for row in all_unplanned)

    def _total(self, name: str, totals: Sequence[int]) -> dict[str, Any]:
        recorded_bytes, formula_bytes, mismatches = totals
        return {
            "name": name,
            "recorded_bytes": recorded_bytes,
            "formula_bytes": formula_bytes,
            "mismatches": mismatches,
            "formula": str(self._strategy.plan.op(name).size),
        }
