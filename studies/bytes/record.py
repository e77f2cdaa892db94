"""Record the bytes that a group of processes sends in a training step, for every case of study.toml.

    torchrun --standalone --nproc-per-node=4 studies/bytes/record.py rows.jsonl
    torchrun --standalone --nproc-per-node=5 studies/bytes/record.py --servers 1 rows.jsonl     (ps_async)

The number of workers is the size of the group, less the servers. Each process trains for real, in float32 over gloo.
Its recorder sees every collective, or its wire every message, and each is compared with the plan's formula. Writes one
JSON line per case: bytes that a worker sends in a step, recorded and by formula, mean over workers and steps. With
dedicated servers, the bytes are those that worker and servers exchange.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from des_ref.certify.audit import Audit
from des_ref.cli import Parser, run, say
from des_ref.comm import Comm, open_comm, record
from des_ref.data.batch import Batch, slice_of
from des_ref.data.synthetic import Zipf
from des_ref.models.build import Network
from des_ref.strategies import STRATEGIES
from des_ref.strategies.base import Optimizers, Strategy
from des_ref.strategies.ps_server import Server
from des_ref.tracing.planned import PlannedRecorder
from dessim.files import read_toml
from dessim.processes import leave
from dessim.trace.schema import sent_factor
from dessim.workload.model import Model, load_model, parse_model
from dessim.workload.model_sections import Input
from dessim.workload.plan import Traffic

HERE = Path(__file__).parent
DEDICATED_SERVER = "ps_async"  # the strategy whose servers are separate processes
SEED = 0
STALENESS = 4
TIMEOUT_S = 300.0

Sums = Mapping[str, tuple[int, int, int]]  # by op, over workers and steps: recorded bytes, planned bytes, mismatches


@dataclass(frozen=True, slots=True)
class Case:
    """The case that one line reports. `ids` is a key of study.toml's ids_per_field."""

    ids: str
    model: str
    strategy: str

    def load(self, study: Mapping[str, Any]) -> Model:
        """Return the shipped model with this case's ids per field and batch."""
        raw = load_model(self.model).model_dump()
        raw["input"]["ids_per_sample"] = raw["input"]["fields"] * study["ids_per_field"][self.ids]
        raw["input"]["batch_per_worker"] = study["smaller_batch"].get(self.model, study["batch_per_worker"])
        return parse_model(raw, self.model)


def cases(study: Mapping[str, Any]) -> Iterator[Case]:
    """Yield every case; consecutive cases train on the same samples, which `batches` caches."""
    for ids in study["ids_per_field"]:
        for model in study["models"]:
            for strategy in study["strategies"]:
                yield Case(ids, model, strategy)


@cache
def batches(shape: Input, samples: int, steps: int) -> list[Batch]:
    """Draw the global batches, the same for every strategy."""
    zipf = Zipf(shape.fields, shape.ids_per_sample / shape.fields, shape.vocabulary, shape.skew, SEED)
    return [zipf.examples(samples, part).take(torch.arange(samples)) for part in range(steps)]


def measure(case: Case, study: Mapping[str, Any], comm: Comm) -> dict[str, Any] | None:
    """Train the case's steps; return its row on rank 0, None elsewhere. Every process calls this, servers too."""
    model = case.load(study)
    steps = study["steps"]
    network = Network(model, SEED, torch.float32, "cpu")
    if comm.rank >= comm.world_size:
        Server(network, Optimizers(), comm, STALENESS).serve()
        return None
    strategy = STRATEGIES[case.strategy](network, Optimizers(), comm)
    samples = model.input.batch_per_worker * comm.world_size
    shares = [slice_of(whole, comm.rank, comm.world_size) for whole in batches(model.input, samples, steps)]
    symbols = model.symbols(comm.world_size, samples) | {"s": float(strategy.value_bytes)}
    sums = (_collectives if comm.wire is None else _messages)(strategy, shares, symbols, comm)
    strategy.close()
    # The servers of this case must have answered every worker before a worker contacts those of the next case.
    comm.barrier()
    if comm.rank:
        return None
    planned = {op.name: op for op in strategy.plan.collectives}
    recorded = by_formula = dense = 0.0
    for name, (moved, formula_bytes, _) in sums.items():
        op = planned.get(name)
        # A rank sends a fraction of a collective's S, but all of a message.
        sent = sent_factor(op.collective, comm.world_size) if op is not None and comm.wire is None else 1.0
        share = sent / (comm.world_size * steps)
        recorded += share * moved
        by_formula += share * formula_bytes
        dense += share * moved if op is not None and op.traffic is Traffic.DENSE else 0.0
    return {
        "workers": comm.world_size,
        **asdict(case),
        "batch_per_worker": model.input.batch_per_worker,
        "recorded_bytes": round(recorded),
        "formula_bytes": round(by_formula),
        "dense_bytes": round(dense),  # part of recorded_bytes: gradients and parameters of replicated weights
        "mismatches": sum(mismatches for _, _, mismatches in sums.values()),
    }


def _collectives(strategy: Strategy, shares: list[Batch], symbols: dict[str, float], comm: Comm) -> Sums:
    recorder = PlannedRecorder(comm, strategy.plan)
    audit = Audit(strategy.plan, symbols)
    strategy.marks = recorder
    for i, share in enumerate(shares):
        with recorder.step(i):  # a full recording also sees collectives that bypass comm/
            result = strategy.step(share)
        audit.add_step(recorder.take_planned(strategy.op_vars(result.counts, len(share) * comm.world_size)))
    keys = ("recorded_bytes", "formula_bytes", "mismatches")
    return {op["name"]: tuple(op[key] for key in keys) for op in audit.gather(comm)}


def _messages(strategy: Strategy, shares: list[Batch], symbols: dict[str, float], comm: Comm) -> Sums:
    assert comm.wire is not None
    moved = Counter[str]()
    planned_bytes = Counter[str]()
    mismatches = Counter[str]()
    for share in shares:
        comm.wire.moved.clear()
        result = strategy.step(share)
        variables = strategy.op_vars(result.counts, len(share) * comm.world_size)
        planned = {op.name: op.bytes({**symbols, **variables[op.name]}) for op in strategy.plan.collectives}
        moved.update(comm.wire.moved)
        planned_bytes.update(planned)
        mismatches.update(n for n in {**planned, **comm.wire.moved} if comm.wire.moved[n] != planned.get(n, 0))
    # Every worker runs the same steps, so all have messages of the same names and the rows line up.
    names = sorted({**moved, **planned_bytes})
    counters = (moved, planned_bytes, mismatches)
    rows = comm.gather_rows("sums", [float(counter[name]) for name in names for counter in counters])
    totals = torch.tensor(rows).sum(dim=0).view(-1, 3).long().tolist()
    return {name: tuple(row) for name, row in zip(names, totals, strict=True)}


def main() -> int:
    parser = Parser(prog="record.py", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="file to which rows are appended")
    parser.add_argument("--study", type=Path, default=HERE / "study.toml", help="default: the one beside this file")
    parser.add_argument(
        "--servers", type=int, default=0, help=f"number of server processes; runs the cases of {DEDICATED_SERVER}"
    )
    options: argparse.Namespace = parser.parse_args()
    study = read_toml(options.study)
    has_servers = options.servers > 0
    with open_comm("cpu") as comm:
        if has_servers:
            comm = comm.with_servers(options.servers, TIMEOUT_S)
        for case in cases(study):
            row = measure(case, study, comm) if (case.strategy == DEDICATED_SERVER) == has_servers else None
            if row is not None:
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                label = f"{comm.world_size} workers, {case.ids} {case.model}, {case.strategy}"
                say(f"{label}: {row['recorded_bytes']:,} bytes, {row['mismatches']} mismatches")
    return 0


@record
def entry() -> None:
    leave(run("record.py", main))


if __name__ == "__main__":
    entry()
