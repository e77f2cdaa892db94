"""The training loop: epochs of steps, each epoch followed by an evaluation."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from des_ref.checkpoint.writer import Writer
from des_ref.cli import say
from des_ref.comm import Comm
from des_ref.config import Settings
from des_ref.line_log import LineLog
from des_ref.pipeline import Pipeline
from des_ref.progress import Progress
from des_ref.strategies.base import StepResult, Strategy
from des_ref.tracing.session import TraceSession
from des_ref.training.divergence import check_finite
from des_ref.training.evaluation import evaluate_epoch
from des_ref.training.source import Opened


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The inputs of a training run. `progress` advances as it trains; `session` records a trace of its first steps."""

    settings: Settings
    opened: Opened
    comm: Comm
    strategy: Strategy
    pipeline: Pipeline
    progress: Progress
    session: TraceSession | None = None
    writer: Writer | None = None
    epoch_log: Path | None = None

    @property
    def step_limit(self) -> float:
        return self.settings.training.steps or math.inf

    @property
    def is_tracing(self) -> bool:
        return self.session is not None and not self.session.done

    @property
    def has_stopped_improving(self) -> bool:
        """Whether the last `patience` epochs have not improved on the best validation score."""
        best = self.progress.best
        return best is not None and self.progress.epochs - best["epoch"] >= self.settings.training.patience


def train(run: Run) -> None:
    """Train from where `run.progress` is, until validation stops improving or a limit is reached."""
    progress = run.progress
    if _has_finished(run):
        return
    finished_epochs = progress.epochs
    # A resumed run keeps the lines of finished epochs; later epochs are trained again.
    keep = (lambda lines: lines[:finished_epochs]) if finished_epochs else None
    has_log = run.epoch_log is not None and run.comm.rank == 0
    with LineLog(run.epoch_log, keep) if has_log else nullcontext() as log:
        for epoch in range(progress.epochs, run.settings.training.epochs):
            _train_epoch(run, epoch)
            _evaluate(run, epoch, log)
            # A requested trace is completed before the run stops early.
            is_last = progress.steps >= run.step_limit or epoch + 1 == run.settings.training.epochs
            is_last = is_last or (run.has_stopped_improving and not run.is_tracing)
            writer = run.writer
            if writer is not None and run.pipeline.epoch > epoch and (is_last or writer.due(progress.steps)):
                writer.save(run.strategy, progress)
            if is_last:
                break


def _has_finished(run: Run) -> bool:
    """Whether the checkpoint that the run resumes from is that of a finished run."""
    progress = run.progress
    steps_per_epoch = run.opened.source.train_samples // run.settings.training.batch
    is_at_epoch_end = progress.steps == steps_per_epoch * progress.epochs
    return is_at_epoch_end and (run.has_stopped_improving or progress.steps >= run.step_limit)


def _train_epoch(run: Run, epoch: int) -> None:
    """Train the remaining steps of an epoch, up to the run's step limit."""
    progress = run.progress
    pipeline = run.pipeline
    writer = run.writer
    result: StepResult | None = None
    while pipeline.epoch == epoch and progress.steps < run.step_limit:
        batch = pipeline.batch
        is_traced = run.is_tracing
        started_at = time.perf_counter()
        result = run.session.step() if is_traced and run.session is not None else pipeline.step()
        progress.steps += 1
        progress.count(result.counts)
        # Waits for the loss. On a GPU the step has only been issued until then.
        check_finite(result.loss, batch, progress, run.comm, run.settings.folder(run.epoch_log))
        if not is_traced:
            progress.step_seconds.append(time.perf_counter() - started_at)
        is_due = writer is not None and (writer.due(progress.steps) or progress.steps >= run.step_limit)
        # The checkpoint of an epoch's last step is written after the evaluation, with its scores.
        if is_due and writer is not None and pipeline.epoch == epoch:
            progress.loss = _global_loss(result, run.comm, run.strategy)
            writer.save(run.strategy, progress)
    if result is not None:
        progress.loss = _global_loss(result, run.comm, run.strategy)
    progress.epochs = epoch + 1


def _evaluate(run: Run, epoch: int, log: LineLog | None) -> None:
    """Score the held-out samples; rank 0 prints and logs the figures."""
    progress = run.progress
    source = run.opened.source
    batch = run.settings.training.batch
    scores = evaluate_epoch(progress, source.validation, source.test, comm=run.comm, strategy=run.strategy, batch=batch)
    if run.comm.rank == 0:
        figures = "  ".join(f"{key} {value}" for key, value in scores.items() if value is not None)
        say(f"epoch {epoch + 1:3d}  loss {progress.loss:.4f}  {figures}")
        if log is not None:
            log.add({"epoch": epoch + 1, "loss": progress.loss, **scores})


def _global_loss(result: StepResult, comm: Comm, strategy: Strategy) -> float:
    """The step's mean loss over the global batch. Every worker calls it."""
    loss = result.loss.clone()
    if strategy.loss_is_share:
        comm.all_reduce("loss", loss).wait()
    return float(loss)
