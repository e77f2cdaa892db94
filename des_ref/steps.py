"""Time whole training steps of many jobs in one launch:

    torchrun --standalone --nproc-per-node=4 -m des_ref.steps jobs.json -o steps.json

step_jobs.py describes the file of jobs. A job trains for real on synthetic clicks: `warmup` steps, a barrier, then
`steps` steps in a row, as in a training. With `trace`, a trace is recorded first. For each job the result has

    ends_s    [worker][steps + 1] start of the first step and end of each step [s], on rank 0's clock
    ops       collectives of the plan with S in bytes by formula, mean over workers and steps (dessim.trace.schema); for
              ps_async the bytes that a worker and its servers send each other
    frames    Ethernet bytes that each process's host sent during the steps, counted by the kernel; null where it does
              not count them
    busy      share of the machine's cores that were busy
    work_s    CPU seconds of a worker's own threads in a step, without those of the communication library; median over
              steps, mean over workers

`frames` and `busy` cover the timed steps. For ps_async they cover everything from the first warm-up step until the
last worker has disconnected, on servers and workers: `counted_steps` is the number of those steps, and `closing` the
bytes that were sent in addition.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from des_ref.cli import Parser, add_allow_code, output_file, run, say
from des_ref.comm import Comm, open_comm, record
from des_ref.data.synthetic import Zipf
from des_ref.embedding.optim import ROW_OPTIMIZERS
from des_ref.machine import core_seconds, sent_frames
from des_ref.models.build import Network
from des_ref.pipeline import Pipeline, endless
from des_ref.recording.clocks import clock_offsets_us
from des_ref.step_jobs import Job, load_jobs
from des_ref.strategies import build
from des_ref.strategies.base import Lane, Optimizers, StepResult, Strategy
from des_ref.strategies.ps_server import Server
from des_ref.substitution.head import require_allowed
from des_ref.tracing.session import TraceOptions, TraceSession
from dessim.errors import UsageError
from dessim.files import write_json
from dessim.processes import leave
from dessim.trace.io import abandon
from dessim.trace.schema import PREFETCH
from dessim.workload.symbol_values import value_bytes

STALENESS = 4  # of ps_async, in steps
TIMEOUT_S = 120.0  # after which a silent process of ps_async counts as dead
_NOT_COUNTED = -1.0


@dataclass(frozen=True, slots=True)
class Load:
    """The machine's work over a span of steps.

    frames  bytes of Ethernet frames that this process's host sent; _NOT_COUNTED where no shaper counts them
    busy    share of the machine's cores that were busy
    """

    frames: float
    busy: float


class Watch:
    """Measures the load from its creation until `stop`."""

    def __init__(self) -> None:
        self._frames = sent_frames()
        self._cores = core_seconds()

    def stop(self) -> Load:
        frames = sent_frames()
        cores = core_seconds()
        counted = _NOT_COUNTED if frames is None or self._frames is None else float(frames - self._frames)
        total_s = cores[1] - self._cores[1]
        return Load(counted, (cores[0] - self._cores[0]) / total_s if total_s > 0 else 0.0)


@dataclass(frozen=True, slots=True)
class Timed:
    """One process's measurement of a job.

    ends_s  [steps + 1] start of the first step and end of each step, on rank 0's clock
    work_s  CPU seconds of this worker's threads in a step, median
    sizes   S of each collective, mean over steps; empty on servers
    """

    load: Load
    work_s: float
    ends_s: list[float]
    sizes: dict[str, float]


def now_s() -> float:
    """Seconds on this process's clock."""
    return time.perf_counter_ns() / 1e9


def measure(world: Comm, job: Job, offset_s: float) -> dict[str, Any] | None:
    """Run a job. Returns its JSON object on rank 0, None on other processes. Every process calls it.

    `offset_s` is what to add to this process's clock to read rank 0's. Raises UsageError.
    """
    comm = world.with_servers(job.servers, TIMEOUT_S) if job.has_servers else world
    if job.batch % comm.world_size:
        raise UsageError(f"job {job.name}: batch {job.batch} is not divisible by {comm.world_size} workers")
    optimizers = Optimizers(ROW_OPTIMIZERS[job.optimizer]())
    network = Network(job.model.trained_by(optimizers.rows.name), job.seed, torch.float32, comm.device)
    world.barrier()
    watch = Watch()
    if comm.rank >= comm.world_size:
        Server(network, optimizers, comm, STALENESS).serve()
        timed = Timed(watch.stop(), 0.0, [0.0] * (job.steps + 1), {})
    else:
        timed = _train(job, comm, build(job.strategy, network, optimizers, comm, tables=job.tables), offset_s, watch)
    rows = world.gather_rows("spans", [timed.load.frames, timed.load.busy, timed.work_s, *timed.ends_s])
    sizes = world.gather_text("ops", json.dumps(timed.sizes))
    if world.rank != 0:
        return None
    processes = [
        Timed(Load(row[0], row[1]), row[2], list(row[3:]), json.loads(text))
        for row, text in zip(rows, sizes, strict=True)
    ]
    return _result(job, processes[: comm.world_size], processes)


def _train(job: Job, comm: Comm, strategy: Strategy, offset_s: float, watch: Watch) -> Timed:
    """A worker's side of a job. `watch` was started before any process of the job began to work."""
    pipeline = _pipeline(job, comm, strategy)
    ends_s: list[float] = []
    worked_s: list[float] = []

    def mark() -> None:
        ends_s.append(now_s() + offset_s)
        worked_s.append(time.thread_time() + pipeline.ahead_s)

    try:
        if job.trace is not None:
            options = TraceOptions(Path(job.trace), job.warmup, job.traced)
            session = TraceSession(options, comm, strategy, pipeline=pipeline, model=job.model, batch=job.batch)
            while not session.done:
                session.step()
        warmup = [pipeline.step() for _ in range(job.warmup)]
        timed: list[StepResult] = []
        comm.barrier()
        steps_watch = Watch()
        comm.barrier()
        mark()
        for _ in range(job.steps):
            timed.append(pipeline.step())
            mark()
        comm.barrier()
        load = steps_watch.stop()
        comm.barrier()
    finally:
        pipeline.close()
        if job.trace is not None and comm.rank == 0:
            abandon(Path(job.trace))
    if strategy.close() is not None:  # servers count from the first warm-up step to the end, and so do their workers
        load = watch.stop()
    results = [*warmup, *timed] if job.has_servers else timed
    work_s = median(after - before for before, after in pairwise(worked_s))
    return Timed(load, work_s, ends_s, _sizes(job, comm, strategy, results))


def _pipeline(job: Job, comm: Comm, strategy: Strategy) -> Pipeline:
    """The pipeline that trains on the job's synthetic samples. Raises UsageError for less than a batch of samples."""
    source = Zipf.of(job.model, job.seed).open(job.generated_samples)
    if source.train_samples < job.batch:
        raise UsageError(f"job {job.name}: samples {job.generated_samples} make less than a batch of {job.batch}")
    lane = Lane(comm.separate_group(PREFETCH)) if job.pipeline and not job.has_servers else None
    strategy.count(lambda: islice(source.batches(0, job.batch, 0, 1), max(job.warmup, 1)))
    share = strategy.share if strategy.looks_ahead else None
    return Pipeline(strategy, comm, endless(source, job.batch, comm, share=share), lane)


def _sizes(job: Job, comm: Comm, strategy: Strategy, results: Sequence[StepResult]) -> dict[str, float]:
    """S of every collective, mean over this worker's steps."""
    symbols = strategy.plan.symbols(job.model.symbols(comm.world_size, job.batch)) | value_bytes(strategy.value_bytes)
    sums = {op.name: 0.0 for op in strategy.plan.collectives}
    for result in results:
        variables = strategy.op_vars(result.counts, job.batch)
        for op in strategy.plan.collectives:
            sums[op.name] += op.size.evaluate(symbols | variables.get(op.name, {})) / len(results)
    return sums


def _result(job: Job, workers: Sequence[Timed], processes: Sequence[Timed]) -> dict[str, Any]:
    """The JSON object of a job, from the measurements of its workers and of all processes, servers included."""
    ops = [
        {
            "name": op.name,
            "collective": str(op.collective),
            "traffic": str(op.traffic),
            "bytes": sum(worker.sizes[op.name] for worker in workers) / len(workers),
        }
        for op in job.plan.collectives
    ]
    # To make sure that its pushes have been applied, a worker pulls the dense parameters twice more at the end.
    closing = 2 * next(op["bytes"] for op in ops if op["name"] == "pull_dense") if job.has_servers else 0.0
    frames = [process.load.frames for process in processes]
    return {
        **job.model_dump(exclude={"model"}),
        "model": job.model.model_dump(mode="json"),
        "workers": len(workers),
        "servers": job.servers if job.has_servers else 0,
        "pipeline": job.pipeline and not job.has_servers,
        "ends_s": [worker.ends_s for worker in workers],
        "ops": ops,
        "frames": None if min(frames) < 0 else [round(count) for count in frames],
        "counted_steps": job.steps + (job.warmup if job.has_servers else 0),
        "closing": closing,
        "busy": workers[0].load.busy,
        "work_s": sum(worker.work_s for worker in workers) / len(workers),
    }


def main(argv: Sequence[str] | None = None) -> int:
    p = Parser(prog="des_ref.steps", description="Time whole training steps of many jobs in one launch.")
    p.add_argument("jobs", type=Path, metavar="JOBS", help="JSON file of jobs (des_ref/step_jobs.py)")
    p.add_argument(
        "-o",
        "--out",
        "--json",
        type=output_file,
        metavar="FILE",
        help="write the JSON object to this file (default: stdout)",
    )
    add_allow_code(p)
    args = p.parse_args(argv)
    jobs = load_jobs(args.jobs)
    for job in jobs:
        require_allowed(job.model, args.allow_code)
    with open_comm("cpu") as comm:
        offset_s = clock_offsets_us(comm, lambda: now_s() * 1e6)[comm.rank] / 1e6
        results = []
        for job in jobs:
            result = measure(comm, job, offset_s)
            if result is not None:
                results.append(result)
                say(f"{job.name}: {_step_ms(result):.1f} ms a step")
        if comm.rank == 0:
            output = {"schema_version": 1, "ranks": comm.world_size, "cores": os.cpu_count(), "jobs": results}
            if args.out is None:
                print(json.dumps(output))
            else:
                write_json(args.out, output)
        comm.barrier()
    return 0


def _step_ms(result: Mapping[str, Any]) -> float:
    """Milliseconds of a step, mean over workers."""
    ends = result["ends_s"]
    return float(1e3 * sum(row[-1] - row[0] for row in ends) / len(ends) / result["steps"])


@record
def entry() -> None:
    leave(run("des_ref.steps", main))


if __name__ == "__main__":
    entry()
