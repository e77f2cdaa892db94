"""What the certificate says of ps_async: not equivalent, how stale it was, and that its bytes are the formula's.

The same data, model and optimizers as the certificate's, on n workers and one more process that serves. After the last
step the servers' rows and dense parameters are held against one process that took as many steps: with one worker they
must be equal, with more they differ, and by how much is reported. Each worker's messages are counted where they are
handed to torch.distributed; servers hold every row, so there is no foreign row to poison.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from des_ref.comm import Comm
from des_ref.data.batch import Batch, slice_of
from des_ref.models.build import Network
from des_ref.reference import Reference
from des_ref.strategies.base import Optimizers
from des_ref.strategies.ps_async import PsAsync
from des_ref.strategies.ps_server import Server
from dessim.workload.model import Model

SERVERS = 1
PATIENCE = 120.0  # seconds


def measure(
    comm: Comm, model: Model, optimizers: Optimizers, seed: int, batches: list[Batch], staleness: int
) -> dict[str, Any] | None:
    """Train on global batches; what was found, on rank 0. `comm` has been set `apart`."""
    network = Network(model, seed, torch.float64, "cpu")
    if comm.rank >= comm.world_size:
        Server(network, optimizers, comm, staleness).serve()
        return None
    assert comm.wire is not None
    strategy, batch = PsAsync(network, optimizers, comm), len(batches[0])
    symbols = model.symbols(comm.world_size, batch) | {"s": float(strategy.value_bytes)}
    recorded: Counter[str] = Counter()
    planned: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for whole in batches:
        comm.wire.moved.clear()
        result = strategy.step(slice_of(whole, comm.rank, comm.world_size))
        variables = strategy.op_vars(result.counts, batch)
        due = {op.name: op.bytes({**symbols, **variables[op.name]}) for op in strategy.plan.collectives}
        moved = comm.wire.moved
        wrong.update(name for name in {**due, **moved} if moved[name] != due.get(name, 0))
        recorded.update(moved)
        planned.update(due)
    strategy.settle()
    vocabulary = torch.unique(torch.cat([b.ids for b in batches]))
    parameters = strategy.look(vocabulary) | {f"dense.{i}": p.detach() for i, p in enumerate(network.dense_parameters)}
    tally = strategy.close()
    names = [op.name for op in strategy.plan.collectives]
    sums = comm.gather_rows("certificate", [float(c[name]) for name in names for c in (recorded, planned, wrong)])
    stray = comm.gather_rows("certificate", [float(sum(wrong.values()) - sum(wrong[name] for name in names))])
    if comm.rank:
        return None
    plain = Reference(Network(model, seed, torch.float64, "cpu"), optimizers, vocabulary)
    for whole in batches:
        plain.step(whole)
    differences = [float((parameters[n] - p).abs().max()) for n, p in plain.parameters.items()]
    totals = torch.tensor(sums).sum(dim=0).view(len(names), 3).long().tolist()
    ops = [
        dict(zip(("name", "recorded_bytes", "formula_bytes", "mismatches"), (name, *row), strict=True))
        | {"formula": str(strategy.plan.op(name).size)}
        for name, row in zip(names, totals, strict=True)
    ]
    return {
        "ranks": comm.world_size,
        "servers": SERVERS,
        "equivalent": comm.world_size == 1,
        "staleness": {"bound": staleness, **tally.to_json()},
        "max_param_diff": max(differences),
        "bytes_match": not any(op["mismatches"] for op in ops) and not any(row[0] for row in stray),
        "ops": ops,
    }
