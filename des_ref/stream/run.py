"""Trains on a stream: score a batch, train on it, report, until the stream ends or a signal stops it.

Scores are progressive: the logits of a batch are those that its own training step computes before the update, so
scoring costs nothing. If the model has dropout, `predict` computes them first, without it.
"""

from __future__ import annotations

import threading
import time
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
from des_ref.data.bad_rows import BadRows
from des_ref.data.batch import Batch
from des_ref.data.criteo_rows import Integers
from des_ref.pipeline import Pipeline
from des_ref.strategies.base import Lane, StepResult, Strategy
from des_ref.stream.clock import Clock, Reading, resident_bytes
from des_ref.stream.drift import Drift
from des_ref.stream.feed import END, Feed
from des_ref.stream.lines import STDIN, Lines, Position, is_seekable
from des_ref.stream.progress import StreamProgress
from des_ref.stream.reader import Reader, of_drift, of_text
from des_ref.stream.report import Reports
from des_ref.stream.scores import Scores
from des_ref.stream.stop import asked_to_stop
from des_ref.training.divergence import check_finite
from des_ref.training.source import BAD_ROWS
from des_ref.training.summary import bytes_by_op, describe
from dessim.errors import DessimError, UsageError
from dessim.trace.schema import PREFETCH
from dessim.workload.model import Model


def stream(settings: Settings, model: Model, comm: Comm, strategy: Strategy, checkpoint: Path | None) -> dict[str, Any]:
    """Train to the end of the stream or until a signal, from `checkpoint` if there is one. Returns the run's figures.

    Every worker calls it. Raises DessimError.
    """
    run = _Stream(settings, model, comm, strategy)
    if checkpoint is not None:
        run.progress = resume.restore_run(strategy, checkpoint, run.identity, comm, StreamProgress)
    writer = Writer.of(settings.checkpoint, comm, run.identity)
    with asked_to_stop() as stop:
        try:
            run.train(stop, writer)
            if writer is not None:
                writer.finish()
        finally:
            run.close()
            if writer is not None:
                writer.close()
    return run.summary() | {"checkpoints": writer.to_json() if writer is not None else None}


class _Stream:
    """One run. Close it after use."""

    def __init__(self, settings: Settings, model: Model, comm: Comm, strategy: Strategy) -> None:
        self._settings = settings
        self._model = model
        self._comm = comm
        self._strategy = strategy
        self._inputs = settings.stream.inputs
        self._batch = settings.training.batch
        if model.output is not None:
            raise UsageError(f"a stream has clicks, and {model.name} has another objective: choose another --model")
        self._integers = Integers.of(model, "Criteo's format") if self._inputs else None
        self._bad = BadRows(settings.data.max_bad_rows, settings.folder(self._log) / BAD_ROWS)
        self.progress = StreamProgress()
        self._reader: Reader | None = None
        self._pipeline: Pipeline | None = None
        self._cpu_comm = comm.on_cpu("reports") if comm.world_size > 1 else comm
        # With dropout, the logits of a training step are not those of a prediction.
        self._has_dropout = any(operator.is_random for operator in strategy.network.operators.values())
        self._started_at = time.perf_counter()
        self._trained_s = 0.0
        self._ended_by = ""

    @property
    def _log(self) -> Path | None:
        return Path(self._settings.stream.log) if self._settings.stream.log else None

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that a resumed run must share with this one. Inputs are not part of it: more may be added."""
        shape = self._model.input
        generated = {"vocabulary": shape.vocabulary, "skew": shape.skew, "id_life": self._settings.stream.id_life}
        rows = "criteo" if self._inputs else generated
        return identity(self._settings, self._model, {"name": "stream", "rows": rows})

    def train(self, stop: threading.Event, writer: Writer | None) -> None:
        """Train until the stream ends, the step limit is reached, or `stop` is set on a worker."""
        limit = self._settings.training.steps or float("inf")
        if self.progress.steps >= limit:
            return
        with self._open_reports() as reports:
            feed = self._open_feed(stop)
            self._train(limit, feed, reports, writer)
            self._ended_by = feed.ended_by or "steps"
        if self._bad.count:
            self._bad.write()
        if not self.progress.steps and self._ended_by == END:
            raise DessimError(f"the inputs end before one batch of {self._batch} rows: choose a smaller --batch")

    def _train(self, limit: float, feed: Feed, reports: Reports, writer: Writer | None) -> None:
        comm = self._comm
        progress = self.progress
        lane = Lane(comm.separate_group(PREFETCH)) if self._settings.training.pipeline else None
        pipeline = Pipeline(self._strategy, comm, feed, lane)
        self._pipeline = pipeline
        clock = Clock(feed, self._reader)
        while not pipeline.has_ended and progress.steps < limit:
            self._step(pipeline, feed, clock)
            is_last = pipeline.has_ended or progress.steps >= limit
            if is_last or progress.steps % self._settings.stream.report_every == 0:
                report = self._report(clock.read())
                if comm.rank == 0:
                    reports.give(report)
            elif comm.rank == 0:
                reports.tick(progress.steps, progress.steps * self._batch, clock.rows_per_s * comm.world_size)
            if writer is not None and (is_last or writer.due(progress.steps)):
                progress.merge(self._cpu_comm)
                writer.save(self._strategy, progress)

    def _step(self, pipeline: Pipeline, feed: Feed, clock: Clock) -> None:
        """Score and train on one batch."""
        progress = self.progress
        batch = pipeline.batch
        started_at = time.perf_counter()
        logits = self._strategy.predict(batch) if self._has_dropout else None
        result = pipeline.step()
        progress.steps += 1
        progress.count(result.counts)
        progress.position = feed.position() or progress.position
        check_finite(result.loss, batch, progress, self._comm, self._settings.folder(self._log))  # waits for the loss
        self._trained_s += time.perf_counter() - started_at
        progress.own.add(*self._scored(batch, result, logits))
        clock.count(len(batch), len(batch.ids))

    def close(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
        if self._reader is not None:
            self._reader.close()

    def summary(self) -> dict[str, Any]:
        """The JSON object of the run. Every worker calls it."""
        progress = self.progress
        comm = self._comm
        progress.merge(self._cpu_comm)
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

    def _open_reports(self) -> Reports:
        """Reports, which rank 0 writes. If it cannot, every rank raises DessimError."""
        opened: list[Reports] = []

        def open_own() -> str:
            folder = self._settings.stream.tensorboard
            is_first = self._comm.rank == 0
            log = self._log if is_first else None
            events = Path(folder) if folder and is_first else None
            opened.append(Reports(log, events, self.progress.steps))
            return ""

        resume.on_all_ranks(open_own, self._log or "", self._comm)
        return opened[0]

    def _open_feed(self, stop: threading.Event) -> Feed:
        """Start this worker's reader, if it has one, and return its feed."""
        comm = self._comm
        n = comm.world_size
        ahead = self._settings.stream.ahead
        integers = self._integers
        if integers is None:
            first = self.progress.steps * self._batch
            drift = Drift.of(self._model, self._settings.seed, self._settings.stream.id_life)
            self._reader = Reader(of_drift(drift, self._batch, comm.rank, n, first), ahead)
        elif comm.rank == 0:
            self._reader = Reader(of_text(self._open_lines(), self._batch, self._bad, integers), ahead)
        dealt, dense = (integers.fields, integers.dense_features) if integers is not None else (0, 0)
        return Feed(
            comm.on_cpu("stream") if n > 1 else comm,
            self._reader,
            dealt,
            share=self._batch // n,
            stop=stop,
            dense=dense,
        )

    def _open_lines(self) -> Lines:
        """The inputs, from the position where the run resumes. Reports an input that cannot be read again."""
        position = self.progress.position
        start = Position.from_json(position) if position is not None else None
        if start is not None and start.input < len(self._inputs) and not is_seekable(self._inputs[start.input]):
            name = "standard input" if start.name == STDIN else start.name
            say(f"{name} cannot be read again: continuing with the rows that arrive now")
        return Lines(self._inputs, self._settings.stream.follow, start)

    def _scored(self, batch: Batch, result: StepResult, logits: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits from before the step and labels, [b] each, of the rows that this worker scores."""
        share = len(batch)
        own = slice(self._comm.rank * share, (self._comm.rank + 1) * share)
        if logits is not None:
            return logits[own], batch.labels
        out = result.out
        labels = result.targets
        return (out, labels) if len(out) == share else (out[own], labels[own])

    def _report(self, reading: Reading) -> dict[str, Any]:
        """A report over all workers. Every worker calls it."""
        progress = self.progress
        comm = self._cpu_comm
        progress.merge(comm)
        window = progress.window
        total = progress.total
        progress.window = Scores()
        rows, candidates = self._table_rows()
        all_workers = np.array(comm.gather_rows("report", [*reading.to_list(), resident_bytes()]))
        seconds, cpu_s, counted, ids, held_back_s, starved_s, ahead, memory = all_workers.T
        wall_s = float(seconds.max())
        return {
            "step": progress.steps,
            "rows": progress.steps * self._batch,
            "seconds": time.perf_counter() - self._started_at,
            "rows_per_s": float(counted.sum()) / wall_s,
            "ids_per_s": float(ids.sum()) / wall_s,
            "cpu_s": float(cpu_s.sum()),
            "auc": window.auc,
            "auc_error": window.auc_error,
            "logloss": window.logloss,
            "total_auc": total.auc,
            "total_logloss": total.logloss,
            "table_rows": rows,
            "candidates": candidates,
            "memory_bytes": int(memory.max()),
            "batches_ahead": int(ahead.max()),
            "held_back_share": float(held_back_s.max()) / wall_s,
            "starved_share": float(starved_s.max()) / wall_s,
            "bad_rows": self._bad.count,
            "position": progress.position,
        }

    def _table_rows(self) -> tuple[int, int]:
        """Rows of the tables, and ids that wait for a row, on all workers."""
        own = [float(len(self._strategy.table)), float(self._strategy.table.candidates)]
        all_workers = np.array(self._cpu_comm.gather_rows("table_rows", own))
        rows, candidates = all_workers[0] if self._strategy.rows_replicated else all_workers.sum(axis=0)
        return int(rows), int(candidates)
