"""Train a click-through-rate model. Launch it alone, or with torchrun:

    python -m des_ref.train --json
    torchrun --standalone --nproc-per-node=4 -m des_ref.train --data ml-100k --json
    torchrun --standalone --nproc-per-node=4 -m des_ref.train --trace run.trace --trace-steps 20 --steps 100
    torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 -m des_ref.train
    python -m des_ref.train --data train.txt.gz --model deepfm          (Criteo's columns)
    zcat day_*.gz | python -m des_ref.train --data stream --input - --model deepfm      (docs/streaming.md)

Progress goes to stderr; with --json, rank 0 ends with one JSON object on stdout. AUC and log loss are those of the
held-out test samples at the epoch whose validation AUC was best.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from des_ref.checkpoint import resume
from des_ref.checkpoint.state import identity
from des_ref.checkpoint.writer import Writer
from des_ref.cli import leave, run, say
from des_ref.codecs.install import use_codecs
from des_ref.comm import Comm, open_comm, record
from des_ref.config import Settings
from des_ref.models.build import Network
from des_ref.pipeline import Pipeline, endless
from des_ref.progress import Progress
from des_ref.strategies import build
from des_ref.strategies.base import Lane, Strategy
from des_ref.strategies.ps_server import Server
from des_ref.stream.run import stream
from des_ref.tracing.session import TraceSession
from des_ref.train_flags import parser, settings_from
from des_ref.training.loop import train
from des_ref.training.source import Opened, open_source
from des_ref.training.summary import summarise
from dessim.errors import UsageError
from dessim.files import dump_json
from dessim.trace.schema import PREFETCH
from dessim.workload.model import Model, load_model


def main(argv: Sequence[str] | None = None) -> int:
    args = parser(__doc__.splitlines()[0]).parse_args(argv)
    settings = settings_from(args)
    model = load_model(settings.model).trained_by(settings.optimizer.rows.name)
    with open_comm(args.device, timeout=settings.timeout_s) as comm:
        started = time.perf_counter()
        if settings.strategy == "ps_async":
            comm = comm.apart(settings.servers.count, settings.servers.patience_s)
        if settings.training.batch % comm.world_size:
            raise UsageError(f"--batch {settings.training.batch} is not divisible by {comm.world_size} workers")
        if comm.rank >= comm.world_size:
            network = Network(model, settings.seed, settings.torch_dtype, "cpu")
            Server(network, settings.optimizers, comm, settings.servers.staleness).serve()
            return 0
        folder = Path(settings.checkpoint.folder) if settings.checkpoint.folder else None
        checkpoint = resume.choose(folder, args.resume, comm)
        strategy = build_strategy(settings, model, comm)
        if settings.is_stream:
            summary = stream(settings, model, comm, strategy, checkpoint)
        else:
            summary = train_on_samples(args, settings, model, comm, strategy, checkpoint)
        tally = strategy.close()
        staleness = {"bound": settings.servers.staleness, **tally.to_json()} if tally is not None else None
        summary["servers"], summary["staleness"] = settings.servers.count if tally is not None else 0, staleness
        summary["trace"] = str(args.trace) if args.trace is not None else None
        summary["wall_time_s"] = time.perf_counter() - started
        if comm.rank == 0:
            of = "progressive" if settings.is_stream else "test"
            say(f"{of} {_quality(summary)}  {summary['samples_per_s']:,.0f} samples/s")
            if args.json:
                print(dump_json(summary), flush=True)
    return 0


def train_on_samples(
    args: argparse.Namespace,
    settings: Settings,
    model: Model,
    comm: Comm,
    strategy: Strategy,
    checkpoint: Path | None,
) -> dict[str, Any]:
    """Epochs over samples that there are so many of; the figures of the run."""
    folder = Path(settings.checkpoint.folder) if settings.checkpoint.folder else None
    opened = open_source(settings.data, model, settings.seed, comm, settings.folder(args.epoch_log))
    if opened.fallback_reason and comm.rank == 0:
        _say_fallback(opened.fallback_reason)
    if opened.bad.count and comm.rank == 0:
        line, problem, _ = opened.bad.shown[0]
        say(f"{opened.bad.count} bad rows are left out, see {opened.bad.sample}; the first, line {line}: {problem}")
    if settings.training.batch > opened.source.train_samples:
        many = f"{opened.source.train_samples} training samples of {opened.name}"
        raise UsageError(f"--batch {settings.training.batch} is more than all {many}")
    run_identity = identity(settings, model, opened.identity(settings.data))
    first, batch = settings.rows.count_batches, settings.training.batch
    strategy.count(lambda: islice(opened.source.batches(0, batch, 0, 1), first))
    progress = Progress()
    if checkpoint is not None:
        progress = resume.go_on(strategy, checkpoint, run_identity, comm)
    every, keep = settings.checkpoint.every, settings.checkpoint.keep
    writer = Writer(comm, folder, every, keep, run_identity) if folder is not None else None
    share = strategy.share if strategy.looks_ahead else None
    batches = endless(opened.source, batch, comm, progress.steps, share)
    lane = Lane(comm.beside(PREFETCH)) if settings.training.pipeline else None
    pipeline = Pipeline(strategy, comm, batches, lane)
    session = _trace_session(args, settings, opened, comm, strategy, pipeline, model)
    try:
        train(settings, opened, comm, strategy, pipeline, session, args.epoch_log, progress, writer)
        if writer is not None:
            writer.finish()
    finally:
        pipeline.close()
        if writer is not None:
            writer.close()
    summary = summarise(settings, model, opened, comm, strategy, progress)
    summary["checkpoints"] = writer.to_json() if writer is not None else None
    return summary


def build_strategy(settings: Settings, model: Model, comm: Comm) -> Strategy:
    """Model, optimizers and strategy as the settings say."""
    network = Network(model, settings.seed, settings.torch_dtype, comm.device)
    strategy = build(settings.strategy, network, settings.optimizers, comm)
    use_codecs(settings.wire.codes, strategy, comm, settings.seed)
    return strategy


def _trace_session(
    args: argparse.Namespace,
    settings: Settings,
    opened: Opened,
    comm: Comm,
    strategy: Strategy,
    pipeline: Pipeline,
    model: Model,
) -> TraceSession | None:
    if args.trace is None:
        return None
    batch, need = settings.training.batch, TraceSession.steps_needed(args.trace_warmup, args.trace_steps)
    planned = opened.source.train_samples // batch * settings.training.epochs
    planned = min(planned, settings.training.steps or planned)
    if planned < need:
        how = f"{args.trace_warmup} to warm up, {2 * args.trace_steps} watched, {args.trace_steps} timed"
        raise UsageError(f"--trace needs {need} steps ({how}), but the run has {planned}")
    return TraceSession(args.trace, comm, strategy, pipeline, model, batch, args.trace_warmup, args.trace_steps)


def _quality(summary: Mapping[str, Any]) -> str:
    if summary["loss"] is None:
        return "no rows"
    if summary["logloss"] is None:
        return f"loss {summary['loss']:.4f}"
    auc = "undefined (one class only)" if summary["auc"] is None else f"{summary['auc']:.4f}"
    return f"AUC {auc}  log loss {summary['logloss']:.4f}"


def _say_fallback(reason: str) -> None:
    bar = "!" * 78
    say(
        f"{bar}\nMovieLens-100K cannot be had: {reason}\nTraining on SYNTHETIC data instead; its AUC says nothing about"
    )
    say(f"MovieLens. Put recbole-1.2.1-py3-none-any.whl somewhere and give its path with --data.\n{bar}")


@record
def entry() -> None:
    leave(run("des_ref.train", main))


if __name__ == "__main__":
    entry()
