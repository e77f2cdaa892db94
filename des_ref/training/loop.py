"""The loop: epochs of steps, each epoch ending with its scores."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from dataclasses import astuple
from pathlib import Path
from typing import IO, Any

import torch

from des_ref.cli import say
from des_ref.comm import Comm
from des_ref.config import Settings
from des_ref.data.source import Opened
from des_ref.pipeline import Pipeline
from des_ref.strategies.base import StepResult, Strategy
from des_ref.trace_session import TraceSession
from des_ref.training.evaluation import evaluate_epoch
from des_ref.training.progress import Progress
from dessim.errors import FileError


def train(
    settings: Settings,
    opened: Opened,
    comm: Comm,
    strategy: Strategy,
    pipeline: Pipeline,
    session: TraceSession | None,
    log: Path | None,
) -> Progress:
    """Epochs until validation stops improving, or the limits are reached."""
    progress = Progress()
    source, limit = opened.source, settings.training.steps
    with _log_file(log if comm.rank == 0 else None) as lines:
        for epoch in range(settings.training.epochs):
            loss = torch.zeros((), device=comm.device)
            while pipeline.epoch == epoch and progress.steps != limit:
                start = time.perf_counter()
                tracing = session is not None and not session.done
                result: StepResult = session.step() if tracing else pipeline.step()
                loss = result.loss
                if not tracing:
                    progress.step_seconds.append(time.perf_counter() - start)
                progress.steps += 1
                progress.counts += astuple(result.counts)
            if strategy.loss_is_share:
                comm.all_reduce("loss", loss).wait()
            progress.epochs = epoch + 1
            line = evaluate_epoch(progress, source.validation, source.test, comm, strategy, settings.training.batch)
            if comm.rank == 0:
                figures = "  ".join(f"{k} {v}" for k, v in line.items() if v is not None)
                say(f"epoch {epoch + 1:3d}  loss {float(loss):.4f}  {figures}")
                if lines is not None:
                    lines.write(json.dumps({"epoch": epoch + 1, "loss": float(loss), **line}) + "\n")
            assert progress.best is not None
            # A trace that was asked for is finished first.
            is_traced = session is None or session.done
            stale = epoch + 1 - progress.best["epoch"] >= settings.training.patience
            if progress.steps == limit or (stale and is_traced):
                break
    return progress


def _log_file(path: Path | None) -> Any:
    if path is None:
        return nullcontext()
    try:
        file: IO[str] = path.open("w", encoding="utf-8", buffering=1)
    except OSError as error:
        raise FileError(path, "", f"cannot be written: {error.strerror}") from None
    return file
