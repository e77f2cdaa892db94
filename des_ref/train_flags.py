"""The command line of `des_ref.train`: its flags, the settings that they go over, and what does not go together."""

from __future__ import annotations

import argparse
from pathlib import Path

from des_ref.checkpoint import resume
from des_ref.cli import Parser, positive
from des_ref.codecs import CODECS
from des_ref.config import Settings, load_settings
from des_ref.embedding.optim import ROW_OPTIMIZERS
from des_ref.models.shampoo import NAME as SHAMPOO
from des_ref.strategies import STRATEGIES, check_strategy
from des_ref.stream.report import check_tensorboard
from dessim.errors import UsageError
from dessim.trace.io import check_free
from dessim.workload.options import parse_strategy


def parser(about: str) -> argparse.ArgumentParser:
    """`about`: what the program is, in a line."""
    p = Parser(prog="des_ref.train", description=about)
    p.add_argument("--config", type=Path, help="run settings, TOML (default: the shipped ml100k.toml)")
    p.add_argument("--data", help="ml-100k, synthetic, stream, or a path (Criteo TSV, recbole wheel)")
    p.add_argument("--model", help="model file, or the name of a shipped one")
    p.add_argument(
        "--strategy", help=f"one of {', '.join(STRATEGIES)}; options behind it: ps_sync+hot_rows=1000+look_ahead"
    )
    p.add_argument(
        "--optimizer",
        choices=tuple(ROW_OPTIMIZERS),
        help="of rows, with its default settings; others go into the settings file",
    )
    p.add_argument("--servers", type=positive, help="of ps_async: the last so many processes serve (default: 1)")
    p.add_argument("--staleness", type=int, help="of ps_async: steps a worker may be ahead (default: 4)")
    p.add_argument(
        "--codec",
        help="what values travel as: fp32, bf16, fp16, fp6, top_k:0.25, threshold:0.99 or pruning:0.8, or one for each "
        "of activations=...,gradients=...,dense=... (default: fp32); all but fp32 lose something: docs/codecs.md",
    )
    p.add_argument("--batch", type=positive, help="samples in the global batch")
    p.add_argument("--epochs", type=positive, help="at most so many passes over the training samples")
    p.add_argument("--steps", type=positive, help="at most so many steps")
    p.add_argument(
        "--pipeline",
        action=argparse.BooleanOptionalAction,
        help="send the next batch's ids while a step runs (default: yes)",
    )
    p.add_argument("--seed", type=int, help="of parameters, dropout and sample order")
    p.add_argument("--dtype", choices=("float32", "float64"), help="of parameters and of the wire")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    p.add_argument("--trace", type=Path, metavar="DIR", help="record a trace into this folder")
    p.add_argument("--trace-steps", type=positive, default=10, help="steps to record (default: 10)")
    p.add_argument("--trace-warmup", type=positive, default=20, help="steps before the first recorded (default: 20)")
    p.add_argument("--checkpoint", metavar="DIR", help="write checkpoints into this folder")
    p.add_argument("--checkpoint-every", type=positive, metavar="STEPS", help="and at the end (default: 1000)")
    p.add_argument(
        "--resume",
        nargs="?",
        const=resume.AUTO,
        metavar="DIR",
        help="go on from this checkpoint, or from the newest good one in this folder of them (default: that of "
        "--checkpoint, which may still be empty)",
    )
    p.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="give up on a worker silent for so long (default: 600)"
    )
    p.add_argument("--max-bad-rows", type=int, metavar="N", help="of a Criteo file, leave out up to N (default: 0)")
    p.add_argument(
        "--input",
        action="append",
        metavar="FILE",
        help="of --data stream: rows of Criteo's format from a file, a named pipe, or - (standard input); several are "
        "read one after the other (default: rows are made)",
    )
    p.add_argument("--follow", action="store_true", default=None, help="of --data stream: wait for the last to grow")
    p.add_argument("--report-every", type=positive, metavar="STEPS", help="of --data stream (default: 100)")
    p.add_argument("--report-log", metavar="FILE", help="of --data stream: write a JSON line for each report")
    p.add_argument("--tensorboard", metavar="DIR", help="of --data stream: write TensorBoard events into this folder")
    p.add_argument("--epoch-log", type=Path, metavar="FILE", help="write a JSON line for each epoch")
    p.add_argument("--json", action="store_true", help="end with one JSON object on stdout")
    return p


def settings_from(args: argparse.Namespace) -> Settings:
    """The settings file with the flags over it. Raises FileError, and UsageError for what does not go together."""
    flags = {
        "data.source": args.data,
        "model": args.model,
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
        "stream.log": args.report_log,
        "stream.tensorboard": args.tensorboard,
        "checkpoint.folder": args.checkpoint,
        "checkpoint.every": args.checkpoint_every,
        "timeout_s": args.timeout,
        "seed": args.seed,
        "dtype": args.dtype,
    }
    settings = load_settings(args.config, {key: value for key, value in flags.items() if value is not None})
    check_strategy(settings.strategy)
    check_trace(args, settings)
    check_checkpoints(args, settings)
    check_stream(args, settings)
    return settings


def check_trace(args: argparse.Namespace, settings: Settings) -> None:
    """Raises UsageError for what does not go together."""
    if args.trace is None:
        return
    check_free(args.trace)
    if settings.strategy == "ps_async":
        raise UsageError("--trace records collectives, and ps_async has none: trace ps_sync instead")


def check_checkpoints(args: argparse.Namespace, settings: Settings) -> None:
    """Raises UsageError for what does not go together."""
    if settings.checkpoint.folder is None and args.resume is None:
        return
    if settings.strategy == "ps_async":
        raise UsageError("ps_async keeps no checkpoints, because rows are on its servers: use ps_sync, or none")
    if any(CODECS[form.name].keeps_state for form in settings.wire.codes.by_buffer.values()):
        what = f"codecs {settings.wire.codes} keep what checkpoints do not have"
        raise UsageError(f"{what}: leave out --checkpoint and --resume, or use bf16, fp16, fp6 or top_k")
    if parse_strategy(settings.strategy)[1].shampoo or settings.optimizer.dense.name == SHAMPOO:
        raise UsageError("shampoo's state is on many workers, and checkpoints do not have it: use Adam, or keep none")
    if args.trace is not None:
        raise UsageError("--trace times steps, and checkpoints are written beside them: trace a run without")


def check_stream(args: argparse.Namespace, settings: Settings) -> None:
    """Raises UsageError for what does not go together."""
    if settings.is_stream:
        _, options = parse_strategy(settings.strategy)
        if options.hot_rows or options.look_ahead:
            raise UsageError(f"{settings.strategy} reads batches before they are shared out, and nobody has a stream's")
        if settings.strategy == "ps_async":
            raise UsageError("workers of ps_async share no steps, so no report is of all: use ps_sync for a stream")
        if settings.stream.tensorboard is not None:
            check_tensorboard()
        for flag, value in (("--trace", args.trace), ("--epochs", args.epochs), ("--epoch-log", args.epoch_log)):
            if value is not None:
                raise UsageError(f"{flag} is of epochs, and a stream has none: see --help for what is of --data stream")
    else:
        given = {"--input": args.input, "--follow": args.follow, "--report-every": args.report_every}
        given |= {"--report-log": args.report_log, "--tensorboard": args.tensorboard}
        for flag, value in given.items():
            if value is not None:
                raise UsageError(f"{flag} is of a stream: say --data stream")
