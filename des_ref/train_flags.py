"""The command line of `des_ref.train`: its options, the settings they override, and combinations that are refused."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from des_ref.checkpoint import resume
from des_ref.cli import Parser, add_allow_code, is_rank_0, not_empty, output_file, output_folder, positive
from des_ref.codecs import CODECS
from des_ref.config import Settings, load_settings
from des_ref.embedding.optim import ROW_OPTIMIZERS
from des_ref.models.shampoo import NAME as SHAMPOO
from des_ref.strategies import STRATEGIES, check_strategy
from des_ref.strategies.planned import read_job
from des_ref.stream.report import check_tensorboard
from dessim.errors import UsageError
from dessim.trace.io import check_free
from dessim.workload.composed import describe
from dessim.workload.strategies import parse_strategy


def parser(about: str) -> argparse.ArgumentParser:
    """The parser of all options. `about` describes the program in one line."""
    p = Parser(prog="des_ref.train", description=about)
    p.add_argument("--config", type=Path, metavar="FILE", help="run settings, TOML (default: the shipped ml100k.toml)")
    _add_job_options(p)
    _add_training_options(p)
    _add_trace_and_checkpoint_options(p)
    _add_stream_options(p)
    p.add_argument("--epoch-log", type=output_file, metavar="FILE", help="write a JSON line for each epoch")
    p.add_argument("--json", action="store_true", help="print one JSON object on stdout at the end")
    p.add_argument("-o", "--out", type=output_file, metavar="FILE", help="write the JSON object to this file")
    return p


def _add_job_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--data", help="ml-100k, synthetic, stream, or a path (Criteo TSV, recbole wheel)")
    p.add_argument("--model", help="model file, or name of a shipped model")
    add_allow_code(p)
    p.add_argument(
        "--ids", metavar="FILE", help="file of dessim ids: rows, ids a sample and frequencies of the model's tables"
    )
    p.add_argument(
        "--strategy", help=f"one of {', '.join(STRATEGIES)}, with options such as ps_sync+hot_rows=1000+look_ahead"
    )
    p.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="plan file of dessim plan: the strategy of each table, the number of workers, and, unless they are given, "
        "--model and --batch",
    )
    p.add_argument(
        "--optimizer",
        choices=tuple(ROW_OPTIMIZERS),
        help="optimizer of rows, with its default settings; set others in the settings file",
    )
    p.add_argument(
        "--servers", type=positive, metavar="N", help="for ps_async: the last N processes serve (default: 1)"
    )
    p.add_argument(
        "--staleness",
        type=int,
        metavar="STEPS",
        help="for ps_async: steps by which a worker may be ahead of the slowest one (default: 4)",
    )
    p.add_argument(
        "--codec",
        help="how values are encoded on the wire: fp32, bf16, fp16, fp6, top_k:0.25, threshold:0.99 or pruning:0.8, or "
        "one for each of activations=...,gradients=...,dense=... (default: fp32); all but fp32 are lossy, see "
        "docs/codecs.md",
    )


def _add_training_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--batch", type=positive, metavar="SAMPLES", help="samples in the global batch")
    p.add_argument("--epochs", type=positive, metavar="N", help="maximum number of passes over the training samples")
    p.add_argument("--steps", type=positive, metavar="N", help="maximum number of steps")
    p.add_argument(
        "--pipeline",
        action=argparse.BooleanOptionalAction,
        help="send the next batch's ids while a step runs (default: yes)",
    )
    p.add_argument("--seed", type=int, help="seed of parameters, dropout and sample order")
    p.add_argument("--dtype", choices=("float32", "float64"), help="data type of parameters and of values on the wire")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    p.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="end the run when a worker has been silent for this long (default: 600)",
    )
    p.add_argument(
        "--max-bad-rows", type=int, metavar="N", help="leave out up to N malformed rows of a Criteo file (default: 0)"
    )


def _add_trace_and_checkpoint_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--trace", type=Path, metavar="DIR", help="record a trace into this folder")
    p.add_argument("--trace-steps", type=positive, metavar="N", default=10, help="steps to record (default: 10)")
    p.add_argument(
        "--trace-warmup",
        type=positive,
        metavar="N",
        default=20,
        help="steps to run before the first recorded one (default: 20)",
    )
    p.add_argument("--checkpoint", type=output_folder, metavar="DIR", help="write checkpoints into this folder")
    p.add_argument(
        "--checkpoint-every",
        type=positive,
        metavar="STEPS",
        help="steps between checkpoints; the end of a run always writes one (default: 1000)",
    )
    p.add_argument(
        "--resume",
        type=not_empty,
        nargs="?",
        const=resume.AUTO,
        metavar="DIR",
        help="resume from this checkpoint, or from the newest good one in this folder (default: the folder of "
        "--checkpoint, which may be empty)",
    )


def _add_stream_options(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--input",
        action="append",
        metavar="FILE",
        help="for --data stream: read rows in Criteo's format from a file, a named pipe, or - (standard input); repeat "
        "it to read several in order (default: generate rows)",
    )
    p.add_argument(
        "--follow", action="store_true", default=None, help="for --data stream: wait for the last input to grow"
    )
    p.add_argument(
        "--report-every",
        type=positive,
        metavar="STEPS",
        help="for --data stream: steps between reports (default: 100)",
    )
    p.add_argument(
        "--report-log", type=output_file, metavar="FILE", help="for --data stream: write a JSON line for each report"
    )
    p.add_argument(
        "--tensorboard",
        type=output_folder,
        metavar="DIR",
        help="for --data stream: write TensorBoard events into this folder",
    )


def settings_from(args: argparse.Namespace) -> Settings:
    """The settings file with the command line's values over it.

    Raises FileError for a wrong file, UsageError for options that cannot be combined.
    """
    overrides = {
        "data.source": args.data,
        "model": args.model,
        "ids": args.ids,
        "strategy": args.strategy,
        "optimizer.rows": args.optimizer and {"name": args.optimizer},
        "servers.count": args.servers,
        "servers.staleness": args.staleness,
        "wire": {"all": args.codec} if args.codec else None,
        "training.batch": args.batch,
        "training.epochs": args.epochs,
        "training.steps": args.steps,
        "training.pipeline": args.pipeline,
        "data.max_bad_rows": args.max_bad_rows,
        "stream.inputs": args.input,
        "stream.follow": args.follow,
        "stream.report_every": args.report_every,
        "stream.log": _text(args.report_log),
        "stream.tensorboard": _text(args.tensorboard),
        "checkpoint.folder": _text(args.checkpoint),
        "checkpoint.every": args.checkpoint_every,
        "timeout_s": args.timeout,
        "seed": args.seed,
        "dtype": args.dtype,
    }
    if args.plan is not None:
        overrides |= _planned(args)
    settings = load_settings(args.config, {key: value for key, value in overrides.items() if value is not None})
    if not settings.tables:
        check_strategy(settings.strategy)
    _check_trace(args, settings)
    _check_checkpoints(args, settings)
    if settings.is_stream:
        _check_stream(args, settings)
    else:
        _check_no_stream_options(args)
    return settings


def _text(path: Path | None) -> str | None:
    return str(path) if path is not None else None


def _planned(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the plan file gives. Raises FileError, UsageError."""
    if args.strategy is not None:
        raise UsageError("--strategy: the plan file names the strategies; leave out --strategy or --plan")
    configured = load_settings(args.config, {}) if args.config is not None else None
    named = configured.model if configured is not None and "model" in configured.model_fields_set else None
    measured = args.ids or (configured.ids if configured is not None else None)
    model, job = read_job(args.plan, args.model or named, measured)
    return {
        "model": model,
        "strategy": job.strategy or describe(job.tables, job.replicas),
        "training.batch": args.batch or job.batch,
        **({"wire": {"all": job.codecs.text}} if job.codecs and not args.codec else {}),
        "plan": {"path": str(args.plan), "gpus": job.gpus, "tables": job.tables, "replicas": job.replicas},
    }


def _check_trace(args: argparse.Namespace, settings: Settings) -> None:
    """Raises UsageError where the run cannot be traced."""
    if args.trace is None:
        return
    check_free(args.trace, is_writer=is_rank_0())
    if settings.has_server_processes:
        raise UsageError("--trace records collectives, and ps_async has none: trace ps_sync instead")


def _check_checkpoints(args: argparse.Namespace, settings: Settings) -> None:
    """Raises UsageError where a checkpoint could not hold the state of the run."""
    if settings.checkpoint.folder is None and args.resume is None:
        return
    without = "leave out --checkpoint and --resume"
    if settings.has_server_processes:
        raise UsageError(f"ps_async keeps no checkpoints, because rows are on its servers: use ps_sync, or {without}")
    if any(CODECS[form.name].keeps_state for form in settings.wire.codes.by_buffer.values()):
        problem = f"codecs {settings.wire.codes} keep state that checkpoints do not save"
        raise UsageError(f"{problem}: {without}, or use bf16, fp16, fp6 or top_k")
    if parse_strategy(settings.strategy)[1].shampoo or settings.optimizer.dense.name == SHAMPOO:
        problem = "checkpoints do not save shampoo's state, which is spread over the workers"
        raise UsageError(f"{problem}: use Adam, or {without}")
    if args.trace is not None:
        raise UsageError(
            "--trace times steps, which writing checkpoints would disturb: trace a run without checkpoints"
        )


def _check_stream(args: argparse.Namespace, settings: Settings) -> None:
    """Raises UsageError for what a run on a stream cannot do."""
    _, options = parse_strategy(settings.strategy)
    if options.hot_rows or options.look_ahead:
        raise UsageError(f"{settings.strategy} reads whole batches in advance, which is impossible for a stream")
    if settings.has_server_processes:
        raise UsageError(
            "ps_async workers do not step together, so there are no joint reports: use ps_sync for a stream"
        )
    if settings.ids is not None and not settings.stream.inputs:
        raise UsageError("--ids: a stream draws the ids of all tables by one law: name its rows with --input")
    if settings.stream.tensorboard is not None:
        check_tensorboard()
    for flag, value in (("--trace", args.trace), ("--epochs", args.epochs), ("--epoch-log", args.epoch_log)):
        if value is not None:
            raise UsageError(f"{flag} applies to runs with epochs, and a stream has none")


def _check_no_stream_options(args: argparse.Namespace) -> None:
    """Raises UsageError for an option that only a stream has."""
    options = {
        "--input": args.input,
        "--follow": args.follow,
        "--report-every": args.report_every,
        "--report-log": args.report_log,
        "--tensorboard": args.tensorboard,
    }
    for flag, value in options.items():
        if value is not None:
            raise UsageError(f"{flag} applies to streams only: add --data stream")
