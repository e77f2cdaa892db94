"""Train on a stream: score a batch, train on it, report, until the stream is over or somebody stops it.

Scores are progressive: a batch's logits are those that its own training step computes before it updates anything, so
they cost nothing; where the model draws dropout masks, `predict` computes them first.
"""

from __future__ import annotations

import threading
import time
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from des_ref.checkpoint import resume
from des_ref.checkpoint.state import identity
from des_ref.checkpoint.writer import Writer
from des_ref.cli import say
from des_ref.comm import Comm
from des_ref.config import Settings
from des_ref.data import criteo_rows
from des_ref.data.bad_rows import BadRows
from des_ref.data.batch import Batch
from des_ref.pipeline import Pipeline
from des_ref.strategies.base import Lane, StepResult, Strategy
from des_ref.stream.clock import Clock, resident_bytes
from des_ref.stream.drift import Drift
from des_ref.stream.feed import END, Feed
from des_ref.stream.lines import Lines, Position, is_seekable
from des_ref.stream.progress import StreamProgress
from des_ref.stream.reader import Reader, of_drift, of_text
from des_ref.stream.report import Reports
from des_ref.stream.stop import asked_to_stop
from des_ref.training.divergence import check_finite
from des_ref.training.source import BAD_ROWS, check_fields
from des_ref.training.summary import bytes_by_op, describe
from dessim.errors import DessimError, UsageError
from dessim.trace.schema import PREFETCH
from dessim.workload.model import Model


def stream(settings: Settings, model: Model, comm: Comm, strategy: Strategy, checkpoint: Path | None) -> dict[str, Any]:
    """Train to the end of the stream, or until a signal; the figures of the run. Raises DessimError."""
    of = _Stream(settings, model, comm, strategy)
    if checkpoint is not None:
        of.progress = resume.go_on(strategy, checkpoint, of.identity, comm, StreamProgress)
    kept = settings.checkpoint
    writer = Writer(comm, Path(kept.folder), kept.every, kept.keep, of.identity) if kept.folder else None
    with asked_to_stop() as stop:
        try:
            of.train(stop, writer)
            if writer is not None:
                writer.finish()
        finally:
            of.close()
            if writer is not None:
                writer.close()
    return of.summary() | {"checkpoints": writer.to_json() if writer is not None else None}


class _Stream:
    """One run. To be closed."""

    def __init__(self, settings: Settings, model: Model, comm: Comm, strategy: Strategy) -> None:
        self._settings, self._model, self._comm, self._strategy = settings, model, comm, strategy
        self._inputs, self._batch = settings.stream.inputs, settings.training.batch
        if model.output is not None:
            raise UsageError(f"a stream is of clicks, and {model.name} has another objective: choose another --model")
        if self._inputs:
            check_fields(model, "Criteo's format", criteo_rows.FIELDS, "deepfm")
        self._bad = BadRows(settings.data.max_bad_rows, settings.folder(self._log) / BAD_ROWS)
        self.progress = StreamProgress()
        self._reader: Reader | None = None
        self._pipeline: Pipeline | None = None
        self._on_cpu = comm.on_cpu("reports") if comm.world_size > 1 else comm
        # Dropout would be in the logits of a training step.
        self._predicts = any(operator.is_random for operator in strategy.network.operators.values())
        self._started = time.perf_counter()
        self._trained_s, self._ended_by = 0.0, ""

    @property
    def _log(self) -> Path | None:
        return Path(self._settings.stream.log) if self._settings.stream.log else None

    @property
    def identity(self) -> dict[str, Any]:
        """What a run that goes on must have in common with it. Further inputs may follow those there were."""
        stream, shape = self._settings.stream, self._model.input
        made = {"vocabulary": shape.vocabulary, "skew": shape.skew, "id_life": stream.id_life}
        return identity(self._settings, self._model, {"name": "stream", "rows": "criteo" if self._inputs else made})

    def train(self, stop: threading.Event, writer: Writer | None) -> None:
        settings, progress = self._settings, self.progress
        limit = settings.training.steps or float("inf")
        if progress.steps >= limit:
            return
        with self._reports() as reports:
            self._train(limit, self._open(stop), reports, writer)

    def _train(self, limit: float, feed: Feed, reports: Reports, writer: Writer | None) -> None:
        settings, comm, progress = self._settings, self._comm, self.progress
        lane = Lane(comm.beside(PREFETCH)) if settings.training.pipeline else None
        pipeline = self._pipeline = Pipeline(self._strategy, comm, feed, lane)
        folder = settings.folder(self._log)
        clock = Clock(feed, self._reader)
        is_first = comm.rank == 0
        while not pipeline.is_over and progress.steps < limit:
            batch, start = pipeline.batch, time.perf_counter()
            logits = self._strategy.predict(batch) if self._predicts else None
            result = pipeline.step()
            self._trained_s += time.perf_counter() - start
            progress.steps += 1
            progress.counts += astuple(result.counts)
            progress.position = feed.position() or progress.position
            check_finite(result.loss, batch, progress, comm, folder)
            progress.own.add(*self._scored(batch, result, logits))
            clock.count(len(batch), len(batch.ids))
            is_last = pipeline.is_over or progress.steps >= limit
            if is_last or progress.steps % settings.stream.report_every == 0:
                report = self._report(clock)
                if is_first:
                    reports.give(report)
            elif is_first:
                reports.tick(progress.steps, progress.steps * self._batch, clock.rows_per_s * comm.world_size)
            if writer is not None and (is_last or writer.due(progress.steps)):
                progress.merge(self._on_cpu)
                writer.save(self._strategy, progress)
        self._ended_by = feed.ended_by or "steps"
        if self._bad.count:
            self._bad.write()
        if not progress.steps and self._ended_by == END:
            raise DessimError(f"the inputs end before one batch of {self._batch} rows: choose a smaller --batch")

    def close(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
        if self._reader is not None:
            self._reader.close()

    def summary(self) -> dict[str, Any]:
        """The JSON object that the run ends with. Every worker takes part."""
        progress, comm = self.progress, self._comm
        progress.merge(self._on_cpu)
        own_steps = progress.steps - progress.steps_before
        by_op = bytes_by_op(self._model, self._batch, comm, self._strategy, progress)
        return {
            "schema_version": 1,
            "data": "stream",
            **describe(self._settings, self._model, comm),
            "inputs": list(self._inputs),
            "ended_by": self._ended_by or "steps",
            "steps": progress.steps,
            "rows": progress.steps * self._batch,
            "samples_trained": progress.steps * self._batch,
            "resumed_from_step": progress.steps_before or None,
            "auc": progress.total.auc,
            "auc_error": progress.total.auc_error,
            "logloss": progress.total.logloss,
            "loss": progress.total.logloss,
            "table_rows": self._table_rows()[0],
            "bad_rows": self._bad.count,
            "position": progress.position,
            "samples_per_s": own_steps * self._batch / self._trained_s if own_steps else 0.0,
            "bytes_per_worker_per_step": sum(by_op.values()),
            "bytes_by_op": by_op,
        }

    def _reports(self) -> Reports:
        """Rank 0 gives them; what it cannot write into is said on all."""
        folder = self._settings.stream.tensorboard
        opened: list[Reports] = []

        def work() -> str:
            is_first = self._comm.rank == 0
            log, events = (self._log, Path(folder) if folder else None) if is_first else (None, None)
            opened.append(Reports(log, events, self.progress.steps))
            return ""

        resume.together(work, self._log or "", self._comm)
        return opened[0]

    def _open(self, stop: threading.Event) -> Feed:
        comm, settings, progress = self._comm, self._settings.stream, self.progress
        n = comm.world_size
        if not self._inputs:
            first = progress.steps * self._batch
            drift = Drift.of(self._model, self._settings.seed, settings.id_life)
            self._reader = Reader(of_drift(drift, self._batch, comm.rank, n, first), settings.ahead)
        elif comm.rank == 0:
            start = Position.from_json(progress.position) if progress.position is not None else None
            if start is not None and start.input < len(self._inputs) and not is_seekable(self._inputs[start.input]):
                what = "standard input" if start.name == "-" else start.name
                say(f"{what} cannot be read again: going on with the rows that come now")
            lines = Lines(self._inputs, settings.follow, start)
            self._reader = Reader(of_text(lines, self._batch, self._bad), settings.ahead)
        dealt = criteo_rows.FIELDS if self._inputs else 0
        return Feed(comm.on_cpu("stream") if n > 1 else comm, self._reader, dealt, self._batch // n, stop)

    def _scored(self, batch: Batch, result: StepResult, logits: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits from before the step and labels, [b] each, of rows that no other worker scores."""
        share = len(batch)
        own = slice(self._comm.rank * share, (self._comm.rank + 1) * share)
        if logits is not None:
            return logits[own], batch.labels
        out, labels = result.out, result.targets
        return (out, labels) if len(out) == share else (out[own], labels[own])

    def _report(self, clock: Clock) -> dict[str, Any]:
        progress, comm = self.progress, self._on_cpu
        progress.merge(comm)
        window, total, progress.window = progress.window, progress.total, type(progress.window)()
        rows, candidates = self._table_rows()
        everyones = np.array(comm.gather_rows("report", [*clock.read(), resident_bytes()]))
        seconds, cpu, counted, ids, held_back, starved, ahead, memory = everyones.T
        wall = float(seconds.max())
        return {
            "step": progress.steps,
            "rows": progress.steps * self._batch,
            "seconds": time.perf_counter() - self._started,
            "rows_per_s": float(counted.sum()) / wall,
            "ids_per_s": float(ids.sum()) / wall,
            "cpu_s": float(cpu.sum()),
            "auc": window.auc,
            "auc_error": window.auc_error,
            "logloss": window.logloss,
            "total_auc": total.auc,
            "total_logloss": total.logloss,
            "table_rows": rows,
            "candidates": candidates,
            "memory_bytes": int(memory.max()),
            "batches_ahead": int(ahead.max()),
            "held_back_share": float(held_back.max()) / wall,
            "starved_share": float(starved.max()) / wall,
            "bad_rows": self._bad.count,
            "position": progress.position,
        }

    def _table_rows(self) -> tuple[int, int]:
        """Rows, and ids that wait for one, on all workers."""
        own = [float(len(self._strategy.table)), float(self._strategy.table.candidates)]
        everyones = np.array(self._on_cpu.gather_rows("table_rows", own))
        rows, candidates = everyones[0] if self._strategy.rows_replicated else everyones.sum(axis=0)
        return int(rows), int(candidates)
