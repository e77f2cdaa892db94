"""The loop: epochs of steps, each epoch ending with its scores."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import astuple
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


def train(
    settings: Settings,
    opened: Opened,
    comm: Comm,
    strategy: Strategy,
    pipeline: Pipeline,
    session: TraceSession | None,
    log: Path | None,
    progress: Progress,
    writer: Writer | None,
) -> None:
    """Epochs until validation stops improving, or the limits are reached; from where `progress` is, which it moves."""
    source, limit = opened.source, settings.training.steps or math.inf
    scored = source.train_samples // settings.training.batch * progress.epochs
    if progress.steps == scored and (_is_stale(progress, settings) or progress.steps >= limit):
        return  # saved at its end
    done = progress.epochs  # lines of later epochs go: those are trained again
    keep = (lambda there: there[:done]) if done else None
    with LineLog(log, keep) if log is not None and comm.rank == 0 else nullcontext() as lines:
        for epoch in range(progress.epochs, settings.training.epochs):
            result: StepResult | None = None
            while pipeline.epoch == epoch and progress.steps < limit:
                batch, start = pipeline.batch, time.perf_counter()
                tracing = session is not None and not session.done
                result = session.step() if tracing else pipeline.step()
                if not tracing:
                    progress.step_seconds.append(time.perf_counter() - start)
                progress.steps += 1
                progress.counts += astuple(result.counts)
                check_finite(result.loss, batch, progress, comm, settings.folder(log))
                is_due = writer is not None and (writer.due(progress.steps) or progress.steps >= limit)
                # The last step of an epoch is saved with its scores, below.
                if is_due and pipeline.epoch == epoch:
                    progress.loss = _whole_loss(result, comm, strategy)
                    writer.save(strategy, progress)
            if result is not None:
                progress.loss = _whole_loss(result, comm, strategy)
            progress.epochs = epoch + 1
            line = evaluate_epoch(progress, source.validation, source.test, comm, strategy, settings.training.batch)
            if comm.rank == 0:
                figures = "  ".join(f"{k} {v}" for k, v in line.items() if v is not None)
                say(f"epoch {epoch + 1:3d}  loss {progress.loss:.4f}  {figures}")
                if lines is not None:
                    lines.add({"epoch": epoch + 1, "loss": progress.loss, **line})
            # A trace that was asked for is finished first.
            is_traced = session is None or session.done
            over = progress.steps >= limit or epoch + 1 == settings.training.epochs
            over = over or (_is_stale(progress, settings) and is_traced)
            if writer is not None and pipeline.epoch > epoch and (over or writer.due(progress.steps)):
                writer.save(strategy, progress)
            if over:
                break


def _is_stale(progress: Progress, settings: Settings) -> bool:
    """Whether validation has not improved for as many epochs as patience lasts."""
    return progress.best is not None and progress.epochs - progress.best["epoch"] >= settings.training.patience


def _whole_loss(result: StepResult, comm: Comm, strategy: Strategy) -> float:
    loss = result.loss.clone()
    if strategy.loss_is_share:
        comm.all_reduce("loss", loss).wait()
    return float(loss)
