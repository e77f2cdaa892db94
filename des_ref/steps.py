"""Whole training steps, timed and counted, of many jobs in one launch:

    torchrun --standalone --nproc-per-node=4 -m des_ref.steps jobs.json --json steps.json

`jobs.json` has a list `jobs`; of each `model` and `strategy` are needed, the rest are defaults:

    {"jobs": [{"name": "wide", "model": "deepfm", "strategy": "mesh", "batch": 1024, "pipeline": true,
               "warmup": 3, "steps": 8, "servers": 1, "samples": 5120,
               "trace": "folder to record a trace into", "traced": 3}]}

`model` is a name or what a model file says. A job trains for real on synthetic clicks: `warmup` steps, a barrier, then
`steps` in a row with nothing in between, as in a training; before them, with `trace`, a trace of so many steps. Written
down of each job:

    ends_s    [worker][steps + 1] when a worker began and ended each step, on rank 0's clock
    ops       collectives of the plan with S in bytes by formula, mean over workers and steps (dessim.trace.schema); of
              ps_async the bytes that a worker and its servers send each other
    frames    Ethernet bytes that each process' host sent meanwhile, counted by the kernel; null where nobody counts
    busy      share of the machine's cores that were busy
    work_s    CPU seconds that a worker's own threads worked in a step, those of the communication library left out;
              median over steps, mean over workers

The window of `frames` is that of the steps. Servers of ps_async count from the first warm-up step to the last worker's
good-bye, and so do its workers there: `counted_steps` says how many steps that is, and `closing` what else was sent.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from des_ref.cli import Parser, leave, output_file, run, say
from des_ref.comm import Comm, open_comm, record
from des_ref.data.synthetic import Zipf
from des_ref.machine import core_seconds, sent_frames
from des_ref.models.build import Network
from des_ref.pipeline import Pipeline, endless
from des_ref.recording.clocks import clock_offsets_us
from des_ref.strategies import build, check_strategy
from des_ref.strategies.base import Lane, Optimizers, StepResult, Strategy
from des_ref.strategies.ps_server import Server
from des_ref.tracing.session import TraceSession
from dessim.errors import FileError, UsageError
from dessim.files import write_json
from dessim.trace.io import check_free
from dessim.trace.schema import PREFETCH
from dessim.workload import formula
from dessim.workload.model import Model, load_model, parse_model
from dessim.workload.operators import Positive

SERVED = "ps_async"  # its servers are processes of their own
STALENESS, PATIENCE_S, SEED = 4, 120.0, 0


class Job(BaseModel):
    """What is trained; `batch` is global."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    model: Model
    strategy: str
    batch: Positive = 1024
    pipeline: bool = True
    warmup: Annotated[int, Field(ge=0)] = 3
    steps: Positive = 8
    servers: Positive = 1
    samples: Positive | None = None
    trace: str | None = None
    traced: Positive = 3

    @property
    def made(self) -> int:
        """Samples to make: at least a few batches of training samples; epochs repeat them."""
        return self.samples or 10 * self.batch


def load_jobs(path: Path) -> list[Job]:
    """The jobs of a file. Raises FileError, and UsageError for what none can do."""
    try:
        raw = json.loads(path.read_text("utf-8"))["jobs"]
        return [_job(entry, path) for entry in raw]
    except ValidationError as error:
        said = "; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors())
        raise FileError(path, "jobs", f"{said} (see des_ref/steps.py)") from None
    except OSError as error:
        raise FileError(path, "", f"cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(path, "", f"not a file of jobs (see des_ref/steps.py): {error}") from None


def _job(raw: Mapping[str, Any], path: Path) -> Job:
    given = dict(raw)
    model = given.pop("model")
    model = load_model(model) if isinstance(model, str) else parse_model(model, path)
    check_strategy(given["strategy"])
    job = Job(**{"name": given["strategy"], **given, "model": model})
    if job.trace is not None:
        check_free(Path(job.trace))
    return job


class Watch:
    """The counters of a span of steps, of this process."""

    def __init__(self) -> None:
        self._frames, self._busy = sent_frames(), core_seconds()

    def stop(self) -> tuple[float, float]:
        """Frame bytes that its host sent (-1: not counted), and the share of the machine's cores that were busy."""
        frames, busy = sent_frames(), core_seconds()
        counted = -1.0 if frames is None or self._frames is None else float(frames - self._frames)
        whole = busy[1] - self._busy[1]
        return counted, (busy[0] - self._busy[0]) / whole if whole > 0 else 0.0


def now_s() -> float:
    return time.perf_counter_ns() / 1e9


def measure(world: Comm, job: Job, offset_s: float) -> dict[str, Any] | None:
    """Run a job; what was found, on rank 0. Every process calls it. Raises UsageError."""
    served = job.strategy == SERVED
    comm = world.apart(job.servers, PATIENCE_S) if served else world
    if job.batch % comm.world_size:
        raise UsageError(f"job {job.name}: batch {job.batch} is not divisible by {comm.world_size} workers")
    optimizers = Optimizers()
    network = Network(job.model.trained_by(optimizers.rows.name), SEED, torch.float32, comm.device)
    world.barrier()
    watch = Watch()
    if comm.rank >= comm.world_size:
        Server(network, optimizers, comm, STALENESS).serve()
        frames, busy, work_s, ends, sizes = *watch.stop(), 0.0, [0.0] * (job.steps + 1), []
    else:
        strategy = build(job.strategy, network, optimizers, comm)
        ends, work_s, results, counted = _train(job, comm, strategy, offset_s)
        frames, busy = counted
        if strategy.close() is not None:
            frames, busy = watch.stop()
        sizes = _sizes(job, comm, strategy, results)
    rows = world.gather_rows("spans", [frames, busy, work_s, *ends])
    # Servers have no ops: they repeat what rank 0 says, so that everyone gathers equally many numbers.
    names = world.gather_text("ops", json.dumps([[name, size] for name, size in sizes]))
    if world.rank != 0:
        return None
    return _found(job, comm, rows[: comm.world_size], [row[0] for row in rows], names[: comm.world_size])


def _train(
    job: Job, comm: Comm, strategy: Strategy, offset_s: float
) -> tuple[list[float], float, list[StepResult], Any]:
    """Train: when each step ended, seconds that one worked, what they counted, and frames and load of the steps."""
    shape = job.model.input
    zipf = Zipf(shape.fields, shape.ids_per_sample / shape.fields, shape.vocabulary, shape.skew, SEED)
    source = zipf.open(job.made)
    if source.train_samples < job.batch:
        raise UsageError(f"job {job.name}: samples {job.made} make less than a batch of {job.batch}")
    lane = Lane(comm.beside(PREFETCH)) if job.pipeline and job.strategy != SERVED else None
    strategy.count(lambda: islice(source.batches(0, job.batch, 0, 1), max(job.warmup, 1)))
    share = strategy.share if strategy.looks_ahead else None
    pipeline = Pipeline(strategy, comm, endless(source, job.batch, comm, share=share), lane)
    try:
        if job.trace is not None:
            session = TraceSession(
                Path(job.trace), comm, strategy, pipeline, job.model, job.batch, job.warmup, job.traced
            )
            while not session.done:
                session.step()
        results = [pipeline.step() for _ in range(job.warmup)]
        comm.barrier()
        watch = Watch()
        comm.barrier()
        ends, worked = [now_s() + offset_s], [time.thread_time() + pipeline.ahead_s]
        for _ in range(job.steps):
            results.append(pipeline.step())
            ends.append(now_s() + offset_s)
            worked.append(time.thread_time() + pipeline.ahead_s)
        comm.barrier()
        counted = watch.stop()
        comm.barrier()
    finally:
        pipeline.close()
    work_s = median(after - before for before, after in pairwise(worked))
    return ends, work_s, results if job.strategy == SERVED else results[job.warmup :], counted


def _sizes(job: Job, comm: Comm, strategy: Strategy, results: Sequence[StepResult]) -> list[tuple[str, float]]:
    """S of every collective, mean over this worker's steps."""
    symbols = strategy.plan.symbols(job.model.symbols(comm.world_size, job.batch)) | {"s": float(strategy.value_bytes)}
    sums = {op.name: 0.0 for op in strategy.plan.collectives}
    for result in results:
        variables = strategy.op_vars(result.counts, job.batch)
        for op in strategy.plan.collectives:
            sums[op.name] += formula.evaluate(op.size, symbols | variables.get(op.name, {})) / len(results)
    return list(sums.items())


def _found(
    job: Job, comm: Comm, rows: Sequence[Sequence[float]], frames: Sequence[float], sizes: Sequence[str]
) -> dict[str, Any]:
    from dessim.workload.strategies import plan

    each = [dict(json.loads(text)) for text in sizes]
    ops = [
        {"name": op.name, "collective": str(op.collective), "traffic": str(op.traffic)}
        | {"bytes": sum(own[op.name] for own in each) / len(each)}
        for op in plan(job.strategy, job.model).collectives
    ]
    served = job.strategy == SERVED
    # To see that its pushes are applied, a worker pulls the dense parameters twice more at the end.
    closing = 2 * next(op["bytes"] for op in ops if op["name"] == "pull_dense") if served else 0.0
    return {
        **job.model_dump(exclude={"model"}),
        "model": job.model.model_dump(mode="json"),
        "workers": comm.world_size,
        "servers": job.servers if served else 0,
        "pipeline": job.pipeline and not served,
        "ends_s": [list(row[3:]) for row in rows],
        "ops": ops,
        "frames": None if min(frames) < 0 else [round(count) for count in frames],
        "counted_steps": job.steps + (job.warmup if served else 0),
        "closing": closing,
        "busy": rows[0][1],
        "work_s": sum(row[2] for row in rows) / len(rows),
    }


def main(argv: Sequence[str] | None = None) -> int:
    p = Parser(prog="des_ref.steps", description=__doc__.split("\n")[0])
    p.add_argument("jobs", type=Path, help="JSON of jobs")
    p.add_argument("--json", type=output_file, metavar="OUT", help="write what was found here (default: stdout)")
    args = p.parse_args(argv)
    jobs = load_jobs(args.jobs)
    with open_comm("cpu") as comm:
        offset_s = clock_offsets_us(comm, lambda: now_s() * 1e6)[comm.rank] / 1e6
        found = []
        for job in jobs:
            found.append(measure(comm, job, offset_s))
            if comm.rank == 0:
                say(f"{job.name}: {_period_ms(found[-1] or {}):.1f} ms a step")
        if comm.rank == 0:
            result = {"schema_version": 1, "ranks": comm.world_size, "cores": os.cpu_count(), "jobs": found}
            if args.json is None:
                print(json.dumps(result))
            else:
                write_json(args.json, result)
        comm.barrier()
    return 0


def _period_ms(found: Mapping[str, Any]) -> float:
    ends = found["ends_s"]
    return float(1e3 * sum(row[-1] - row[0] for row in ends) / len(ends) / found["steps"])


@record
def entry() -> None:
    leave(run("des_ref.steps", main))


if __name__ == "__main__":
    entry()
