"""Record the bytes that a group of processes sends in a training step, for every case of study.toml.

    torchrun --standalone --nproc-per-node=4 studies/skew/record.py rows.jsonl

The number of workers is the size of the group. Each process trains for real, in float32 over gloo, and its recorder
sees every collective and copy. Writes one JSON line per case: bytes that a worker sends to others in a step for ids and
rows, mean over workers and recorded steps, recorded and by Zipf's law; the same for copies between host and device; and
the number of ops that deviate from their formula.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from des_ref.certify.audit import Audit
from des_ref.cli import Parser, run, say
from des_ref.comm import Comm, open_comm, record
from des_ref.data.batch import Batch
from des_ref.data.synthetic import Zipf
from des_ref.models.build import Network
from des_ref.strategies import build
from des_ref.strategies.base import Optimizers
from des_ref.tracing.planned import PlannedRecorder
from dessim.files import read_toml
from dessim.processes import leave
from dessim.trace.schema import Collective, Kind, Op, sent_factor
from dessim.workload.ids import ZipfLaw
from dessim.workload.model import Model, load_model, parse_model
from dessim.workload.options import Expected
from dessim.workload.plan import Plan, Traffic
from dessim.workload.strategies import parse_strategy

HERE = Path(__file__).parent
SEED = 0
ROW_TRAFFIC = (Traffic.IDS, Traffic.SPARSE)


def model_of(study: Mapping[str, Any], skew: float) -> Model:
    """Return the study's model with its vocabulary, batch and this skew."""
    raw = load_model(study["model"]).model_dump()
    raw["input"] |= {"skew": skew, "vocabulary": study["vocabulary"], "batch_per_worker": study["batch_per_worker"]}
    return parse_model(raw, study["model"])


def law_of(model: Model) -> ZipfLaw:
    """Return the law of data/synthetic.py: the r-th id of a field has the probability of x**-skew over [r, r + 1]."""
    return ZipfLaw(model.input.vocabulary, model.input.skew, model.input.fields, offset=0.5)


@cache
def batches(model: Model, samples: int, steps: int) -> list[Batch]:
    """Draw the global batches, the same for every strategy."""
    shape = model.input
    zipf = Zipf(shape.fields, shape.ids_per_sample / shape.fields, shape.vocabulary, shape.skew, SEED)
    return [zipf.examples(samples, part).take(torch.arange(samples)) for part in range(steps)]


def expected_bytes(plan: Plan, model: Model, workers: int, drawn: Sequence[float]) -> tuple[float, float]:
    """Return the expected bytes that a worker sends for ids and rows, and copies, in a step.

    Both are means over the steps in `drawn`, which gives for each step the number of ids drawn before it.
    """
    law = law_of(model)
    _, options = parse_strategy(plan.strategy)
    job = model.symbols(workers, unique=law.unique)
    sent = copied = 0.0
    for ids in drawn:
        symbols = job | Expected(options, law, ids)(job)
        sent += sum(plan.sent_bytes(symbols, traffic) for traffic in ROW_TRAFFIC)
        if plan.copies:
            # Every missing row is copied in; rows are copied out only once the cache is full.
            kept = law.unique(min(ids, law.draws_of(workers * options.cache_rows))) / workers
            moved = {"rows_in": symbols["M"], "rows_out": max(kept + symbols["M"] - options.cache_rows, 0.0)}
            copied += sum(op.size.evaluate(symbols | {"M": moved[op.name]}) for op in plan.copies)
    return sent / len(drawn), copied / len(drawn)


def recorded_bytes(op: Op, plan: Plan, comm: Comm) -> tuple[float, float]:
    """Return the bytes of ids or rows that this rank sent to others in `op`, and the bytes that it copied."""
    if op.kind is Kind.COPY:
        return 0.0, float(op.bytes)
    if op.collective is None or plan.op(op.name).traffic not in ROW_TRAFFIC:
        return 0.0, 0.0
    if op.collective is Collective.ALL_TO_ALL and op.splits is not None:
        return float(op.bytes - op.splits[comm.rank]), 0.0
    return op.bytes * sent_factor(op.collective, comm.world_size), 0.0


def measure(name: str, skew: float, study: Mapping[str, Any], comm: Comm) -> dict[str, Any] | None:
    """Train the case's steps; return its row on rank 0, None elsewhere."""
    model = model_of(study, skew)
    n = comm.world_size
    warmup = study["warmup"]
    steps = study["steps"]
    strategy = build(name, Network(model, SEED, torch.float32, "cpu"), Optimizers(), comm)
    plan = strategy.plan
    samples = model.input.batch_per_worker * n
    wholes = batches(model, samples, warmup + steps)
    strategy.count(lambda: wholes[:warmup])
    symbols = plan.symbols(model.symbols(n, samples)) | {"s": float(strategy.value_bytes)}
    recorder = PlannedRecorder(comm, plan)
    audit = Audit(plan, symbols)
    sums = torch.zeros(4, dtype=torch.float64)  # bytes sent, bytes copied, distinct ids of the worker, of the owner
    for i, whole in enumerate(wholes):
        share = strategy.share(whole)
        if i < warmup:
            strategy.step(share)
            continue
        strategy.marks = recorder
        with recorder.step(i, full=False):
            result = strategy.step(share)
        ops = recorder.take_planned(strategy.op_vars(result.counts, samples))
        audit.add_step(ops)
        sums[:2] += torch.tensor([recorded_bytes(op, plan, comm) for op in ops], dtype=torch.float64).sum(dim=0)
        counts = result.counts
        sums[2:] += torch.tensor([counts.keys + counts.hot, counts.rows - counts.common + counts.common / n])
    mismatches = sum(op["mismatches"] for op in audit.gather(comm))
    means = torch.tensor(comm.gather_rows("sums", sums.tolist())).mean(dim=0) / steps
    sent, copied, worker_ids, owner_ids = means.tolist()
    if comm.rank:
        return None
    drawn = [i * samples * symbols["m"] for i in range(warmup, warmup + steps)]
    expected, expected_copies = expected_bytes(plan, model, n, drawn=drawn)
    return {
        "skew": skew,
        "workers": n,
        "strategy": name,
        "sent_bytes": round(sent),
        "expected_bytes": round(expected),
        "copied_bytes": round(copied),
        "expected_copied_bytes": round(expected_copies),
        "worker_ids": round(worker_ids),  # distinct ids in a worker's samples
        "owner_ids": round(owner_ids),  # distinct ids in the global batch that a worker owns
        "mismatches": mismatches,
    }


def main() -> int:
    parser = Parser(prog="record.py", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="file to which rows are appended")
    parser.add_argument("--study", type=Path, default=HERE / "study.toml", help="default: the one beside this file")
    options: argparse.Namespace = parser.parse_args()
    study = read_toml(options.study)
    with open_comm("cpu") as comm:
        for skew in study["skews"]:
            for strategy in study["strategies"]:
                row = measure(strategy["name"], skew, study, comm)
                if row is not None:
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                    say(f"{comm.world_size} workers, skew {skew}, {strategy['name']}: {row['sent_bytes']:,} bytes")
            batches.cache_clear()
    return 0


@record
def entry() -> None:
    leave(run("record.py", main))


if __name__ == "__main__":
    entry()
