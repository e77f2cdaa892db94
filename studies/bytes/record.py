"""What the processes of a group send in a training step: every case of study.toml at this many workers.

    torchrun --standalone --nproc-per-node=4 studies/bytes/record.py rows.jsonl
    torchrun --standalone --nproc-per-node=5 studies/bytes/record.py --servers 1 rows.jsonl     (ps_async)

Each process trains for real, in float32 over gloo. Its recorder sees every collective, or its wire every message, and
each is held against the plan's formula. A line of JSON a case: bytes that a worker sends in a step, mean over workers
and steps (with servers of their own, what it and they send each other), as recorded and by formula.
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
from des_ref.cli import Parser, leave, run, say
from des_ref.comm import Comm, open_comm, record
from des_ref.data.batch import Batch, slice_of
from des_ref.data.synthetic import Zipf
from des_ref.models.build import Network
from des_ref.strategies import STRATEGIES
from des_ref.strategies.base import Optimizers, Strategy
from des_ref.strategies.ps_server import Server
from des_ref.tracing.planned import PlannedRecorder
from dessim.files import read_toml
from dessim.trace.schema import sent_factor
from dessim.workload.model import Input, Model, load_model, parse_model
from dessim.workload.plan import Traffic

HERE = Path(__file__).parent
SERVED = "ps_async"  # the strategy whose servers are processes of their own
SEED, STALENESS, PATIENCE = 0, 4, 300.0

Sums = Mapping[str, tuple[int, int, int]]  # by op, over workers and steps: bytes, bytes due, and how often not the same


@dataclass(frozen=True, slots=True)
class Case:
    """What one line is about. `ids`: a key of study.toml's ids_per_field."""

    ids: str
    model: str
    strategy: str

    def load(self, study: Mapping[str, Any]) -> Model:
        raw = load_model(self.model).model_dump()
        raw["input"]["ids_per_sample"] = raw["input"]["fields"] * study["ids_per_field"][self.ids]
        raw["input"]["batch_per_worker"] = study["smaller_batch"].get(self.model, study["batch_per_worker"])
        return parse_model(raw, self.model)


def cases(study: Mapping[str, Any]) -> Iterator[Case]:
    """All of them; those that train on the same samples in a row."""
    for ids in study["ids_per_field"]:
        for model in study["models"]:
            for strategy in study["strategies"]:
                yield Case(ids, model, strategy)


@cache
def batches(shape: Input, samples: int, steps: int) -> list[Batch]:
    """Global batches, the same for every strategy."""
    zipf = Zipf(shape.fields, shape.ids_per_sample / shape.fields, shape.vocabulary, shape.skew, SEED)
    return [zipf.examples(samples, part).take(torch.arange(samples)) for part in range(steps)]


def measure(case: Case, study: Mapping[str, Any], comm: Comm) -> dict[str, Any] | None:
    """Train the case's steps; its figures, on rank 0. Every process calls it, one that serves as well."""
    model, steps = case.load(study), study["steps"]
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
    comm.barrier()  # servers of this case must be done with everybody before somebody asks those of the next
    if comm.rank:
        return None
    planned = {op.name: op for op in strategy.plan.collectives}
    recorded = by_formula = dense = 0.0
    for name, (moved, due, _) in sums.items():
        op = planned.get(name)
        # S of a collective becomes what a rank sends; a message is sent whole.
        sent = sent_factor(op.collective, comm.world_size) if op is not None and comm.wire is None else 1.0
        share = sent / (comm.world_size * steps)
        recorded, by_formula = recorded + share * moved, by_formula + share * due
        dense += share * moved if op is not None and op.traffic is Traffic.DENSE else 0.0
    return {
        "workers": comm.world_size,
        **asdict(case),
        "batch_per_worker": model.input.batch_per_worker,
        "recorded_bytes": round(recorded),
        "formula_bytes": round(by_formula),
        "dense_bytes": round(dense),  # of the recorded ones: gradients and parameters of replicated weights
        "mismatches": sum(wrong for _, _, wrong in sums.values()),
    }


def _collectives(strategy: Strategy, shares: list[Batch], symbols: dict[str, float], comm: Comm) -> Sums:
    recorder, audit = PlannedRecorder(comm, strategy.plan), Audit(strategy.plan, symbols)
    strategy.marks = recorder
    for i, share in enumerate(shares):
        with recorder.step(i):  # fully, so that a collective that does not go through comm.py is seen too
            result = strategy.step(share)
        audit.add_step(recorder.take_planned(strategy.op_vars(result.counts, len(share) * comm.world_size)))
    keys = ("recorded_bytes", "formula_bytes", "mismatches")
    return {op["name"]: tuple(op[key] for key in keys) for op in audit.gather(comm)}


def _messages(strategy: Strategy, shares: list[Batch], symbols: dict[str, float], comm: Comm) -> Sums:
    assert comm.wire is not None
    moved, due, wrong = Counter[str](), Counter[str](), Counter[str]()
    for share in shares:
        comm.wire.moved.clear()
        result = strategy.step(share)
        variables = strategy.op_vars(result.counts, len(share) * comm.world_size)
        planned = {op.name: op.bytes({**symbols, **variables[op.name]}) for op in strategy.plan.collectives}
        moved.update(comm.wire.moved)
        due.update(planned)
        wrong.update(n for n in {**planned, **comm.wire.moved} if comm.wire.moved[n] != planned.get(n, 0))
    # Every worker has the same steps, so all have messages of the same names.
    names = sorted({**moved, **due})
    rows = comm.gather_rows("sums", [float(counter[name]) for name in names for counter in (moved, due, wrong)])
    totals = torch.tensor(rows).sum(dim=0).view(-1, 3).long().tolist()
    return {name: tuple(row) for name, row in zip(names, totals, strict=True)}


def main() -> int:
    parser = Parser(prog="record.py", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="file that lines are added to")
    parser.add_argument("--study", type=Path, default=HERE / "study.toml", help="default: the one beside this file")
    parser.add_argument("--servers", type=int, default=0, help=f"so many processes serve: the cases of {SERVED}")
    options: argparse.Namespace = parser.parse_args()
    study, served = read_toml(options.study), options.servers > 0
    with open_comm("cpu") as comm:
        if served:
            comm = comm.apart(options.servers, PATIENCE)
        for case in cases(study):
            row = measure(case, study, comm) if (case.strategy == SERVED) == served else None
            if row is not None:
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                about = f"{comm.world_size} workers, {case.ids} {case.model}, {case.strategy}"
                say(f"{about}: {row['recorded_bytes']:,} bytes, {row['mismatches']} not as planned")
    return 0


@record
def entry() -> None:
    leave(run("record.py", main))


if __name__ == "__main__":
    entry()
