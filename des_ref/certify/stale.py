"""A case of ps_async: how far it is from one process, how stale its pulls were, and whether its bytes are as planned.

Data, model and optimizers are those of the other cases; n workers train, and one more process serves. After the last
step the servers' rows and the dense parameters are compared with one process that took as many steps. With one worker
they must be equal; with more they differ, and the difference is reported. Each worker's messages are counted where they
are handed to torch.distributed. There are no foreign rows to poison, because servers hold every row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from des_ref.comm import Comm
from des_ref.data.batch import Batch, slice_of
from des_ref.models.build import Network
from des_ref.reference import Reference
from des_ref.strategies.base import Optimizers, StepResult
from des_ref.strategies.ps_async import PsAsync
from des_ref.strategies.ps_server import Server
from dessim.workload.model import Model
from dessim.workload.symbol_values import value_bytes

SERVERS = 1
TIMEOUT_S = 120.0  # after which a silent process counts as dead


def measure(
    comm: Comm, model: Model, optimizers: Optimizers, seed: int, batches: list[Batch], staleness: int
) -> dict[str, Any] | None:
    """Train on global batches. Returns the case's part of the JSON object on rank 0, None on other processes.

    `comm` has been split into workers and servers (`Comm.apart`); every process calls it.
    """
    network = Network(model, seed, torch.float64, "cpu")
    if comm.rank >= comm.world_size:
        Server(network, optimizers, comm, staleness).serve()
        return None
    strategy = PsAsync(network, optimizers, comm)
    traffic = _Traffic(strategy, comm, model, len(batches[0]))
    for batch in batches:
        traffic.clear()
        traffic.add_step(strategy.step(slice_of(batch, comm.rank, comm.world_size)))
    strategy.settle()
    vocabulary = torch.unique(torch.cat([b.ids for b in batches]))
    parameters = strategy.look(vocabulary) | {f"dense.{i}": p.detach() for i, p in enumerate(network.dense_parameters)}
    tally = strategy.close()
    ops, has_unplanned = traffic.gather()
    if comm.rank:
        return None
    reference = Reference(Network(model, seed, torch.float64, "cpu"), optimizers, vocabulary)
    for batch in batches:
        reference.step(batch)
    return {
        "ranks": comm.world_size,
        "servers": SERVERS,
        "equivalent": comm.world_size == 1,
        "staleness": {"bound": staleness, **tally.to_json()},
        "max_param_diff": _max_difference(parameters, reference.parameters),
        "bytes_match": not any(op["mismatches"] for op in ops) and not has_unplanned,
        "ops": ops,
    }


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


def _max_difference(parameters: dict[str, Tensor], truth: dict[str, Tensor]) -> float:
    return max(float((parameters[name] - p).abs().max()) for name, p in truth.items())
