"""A training run on a data set with a known number of samples: from the settings to the JSON object of the run."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from des_ref.checkpoint import resume
from des_ref.checkpoint.state import identity
from des_ref.checkpoint.writer import Writer
from des_ref.cli import say
from des_ref.comm import Comm
from des_ref.config import Settings
from des_ref.pipeline import Pipeline, endless
from des_ref.progress import Progress
from des_ref.strategies.base import Lane, Strategy
from des_ref.tracing.session import TraceOptions, TraceSession
from des_ref.training.loop import Run, train
from des_ref.training.source import Opened, open_source
from des_ref.training.summary import summarise
from dessim.errors import UsageError
from dessim.trace.io import abandon
from dessim.trace.schema import PREFETCH
from dessim.workload.model import Model


def train_on_samples(
    settings: Settings,
    model: Model,
    comm: Comm,
    strategy: Strategy,
    *,
    checkpoint: Path | None,
    trace: TraceOptions | None,
    epoch_log: Path | None,
) -> dict[str, Any]:
    """Train for the epochs of the settings, from `checkpoint` if there is one. Returns the figures of the run.

    Every worker calls it. Raises DessimError.
    """
    opened = _open(settings, model, comm, epoch_log)
    _check_trace(settings, opened, trace)
    batch = settings.training.batch
    strategy.count(lambda: islice(opened.source.batches(0, batch, 0, 1), settings.rows.count_batches))
    run_identity = identity(settings, model, opened.identity(settings.data))
    progress = Progress()
    if checkpoint is not None:
        progress = resume.restore_run(strategy, checkpoint, run_identity, comm)
    writer = Writer.of(settings.checkpoint, comm, run_identity)
    share = strategy.share if strategy.looks_ahead else None
    batches = endless(opened.source, batch, comm, progress.steps, share)
    lane = Lane(comm.separate_group(PREFETCH)) if settings.training.pipeline else None
    pipeline = Pipeline(strategy, comm, batches, lane)
    try:
        session = None
        if trace is not None:
            session = TraceSession(trace, comm, strategy, pipeline=pipeline, model=model, batch=batch)
        train(
            Run(
                settings=settings,
                opened=opened,
                comm=comm,
                strategy=strategy,
                pipeline=pipeline,
                progress=progress,
                session=session,
                writer=writer,
                epoch_log=epoch_log,
            )
        )
        if writer is not None:
            writer.finish()
    finally:
        pipeline.close()
        if trace is not None and comm.rank == 0:
            abandon(trace.path)
        if writer is not None:
            writer.close()
    summary = summarise(settings, model, opened, comm=comm, strategy=strategy, progress=progress)
    summary["checkpoints"] = writer.to_json() if writer is not None else None
    return summary


def _open(settings: Settings, model: Model, comm: Comm, epoch_log: Path | None) -> Opened:
    """The samples. Rank 0 reports a fallback and rows left out. Raises UsageError for less than a batch of samples."""
    opened = open_source(settings.data, model, settings.seed, comm, settings.folder(epoch_log))
    if opened.fallback_reason and comm.rank == 0:
        _say_fallback(opened.fallback_reason)
    if opened.bad.count and comm.rank == 0:
        line, problem, _ = opened.bad.shown[0]
        say(
            f"bad rows left out: {opened.bad.count}, listed in {opened.bad.sample}; the first is line {line}: {problem}"
        )
    samples = opened.source.train_samples
    if settings.training.batch > samples:
        raise UsageError(
            f"--batch {settings.training.batch} is more than all {samples} training samples of {opened.name}"
        )
    return opened


def _check_trace(settings: Settings, opened: Opened, trace: TraceOptions | None) -> None:
    """Raises UsageError where the run has too few steps for its trace."""
    if trace is None:
        return
    steps = opened.source.train_samples // settings.training.batch * settings.training.epochs
    steps = min(steps, settings.training.steps or steps)
    if steps < trace.steps_needed:
        parts = f"{trace.warmup} to warm up, {2 * trace.steps} recorded, {trace.steps} timed"
        raise UsageError(f"--trace needs {trace.steps_needed} steps ({parts}), but the run has {steps}")


def _say_fallback(reason: str) -> None:
    rule = "!" * 78
    say(f"{rule}\nMovieLens-100K is not available: {reason}")
    say("Training on SYNTHETIC data instead; the AUC does not compare with results on MovieLens.")
    say(f"To train on MovieLens, pass the path of recbole-1.2.1-py3-none-any.whl with --data.\n{rule}")
