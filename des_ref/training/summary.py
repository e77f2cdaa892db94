"""The figures that a run reports at its end."""

from __future__ import annotations

from typing import Any

import numpy as np

from des_ref.comm import CodedComm, Comm
from des_ref.config import Settings
from des_ref.progress import Progress
from des_ref.strategies.base import Strategy
from des_ref.training.source import Opened
from dessim.workload.model import Model
from dessim.workload.plan import PlannedOp
from dessim.workload.symbol_values import value_bytes


def summarise(
    settings: Settings, model: Model, opened: Opened, *, comm: Comm, strategy: Strategy, progress: Progress
) -> dict[str, Any]:
    """The JSON object of a run. Every rank calls it."""
    batch = settings.training.batch
    by_op = bytes_by_op(model, batch, comm, strategy, progress)
    seconds = np.array(progress.step_seconds or [float("nan")])
    times = {"median": np.median(seconds), "mean": seconds.mean(), "p95": np.quantile(seconds, 0.95)}
    is_timed = bool(progress.step_seconds)
    best = progress.best or {}
    return {
        "schema_version": 1,
        "data": opened.name,
        "fell_back": bool(opened.fallback_reason),
        "fallback_reason": opened.fallback_reason or None,
        **describe(settings, model, comm),
        "samples": {
            "train": opened.source.train_samples,
            "validation": len(opened.source.validation),
            "test": len(opened.source.test),
        },
        "bad_rows": opened.bad.count,
        "samples_trained": progress.steps * batch,
        "auc": best.get("auc"),
        "logloss": best.get("logloss"),
        "loss": best.get("loss", best.get("logloss")),
        "validation_auc": best.get("validation_auc"),
        "best_epoch": best.get("epoch"),
        "epochs": progress.epochs,
        "steps": progress.steps,
        "resumed_from_step": progress.steps_before or None,
        "step_time_s": {key: float(value) if is_timed else None for key, value in times.items()},
        "samples_per_s": batch / float(times["median"]) if is_timed else 0.0,
        "bytes_per_worker_per_step": sum(by_op.values()),
        "bytes_by_op": by_op,
        "sparsity_by_op": strategy.comm.sparsity() if isinstance(strategy.comm, CodedComm) else {},
    }


def describe(settings: Settings, model: Model, comm: Comm) -> dict[str, Any]:
    """The part of the JSON object that says what was trained, how, and on what hardware."""
    return {
        "model": model.name,
        "ids": settings.ids,
        "strategy": settings.strategy,
        "codecs": str(settings.wire.codes),
        "world_size": comm.world_size,
        "backend": comm.backend,
        "device": str(comm.device.type),
        "dtype": settings.dtype,
        "optimizer": settings.optimizer.rows.name,
        "pipeline": settings.training.pipeline,
        "seed": settings.seed,
        "batch": settings.training.batch,
    }


def bytes_by_op(model: Model, batch: int, comm: Comm, strategy: Strategy, progress: Progress) -> dict[str, float]:
    """Bytes that a worker sends in each op, mean over workers and steps. Every rank calls it.

    With parameter servers, an op counts what a worker and its servers send each other. Sizes are linear in the counts,
    so the sizes at the mean counts are the mean sizes.
    """
    symbols = strategy.plan.symbols(model.symbols(comm.world_size, batch)) | value_bytes(strategy.value_bytes)
    ops = strategy.plan.collectives
    variables = strategy.op_vars(progress.mean_counts(), batch)
    sizes = []
    for op in ops:
        values = {**symbols, **variables.get(op.part_of or op.name, {}), **_encoded_symbols(strategy.comm, op)}
        sizes.append(op.size.evaluate(values) if comm.wire is not None else op.sent_bytes(values))
    means = np.array(comm.gather_rows("bytes", sizes)).mean(axis=0)
    return dict(zip((op.name for op in ops), means.tolist(), strict=True))


def _encoded_symbols(comm: Comm | CodedComm, op: PlannedOp) -> dict[str, float]:
    """Symbols of an encoded op that depend on its values, such as the density of a sparse code."""
    return comm.density(op.part_of) if isinstance(comm, CodedComm) else {}
