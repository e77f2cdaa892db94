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
from des_ref.cli import Parser, leave, positive, run, say
from des_ref.codecs import CODECS
from des_ref.codecs.use import use_codecs
from des_ref.comm import Comm, open_comm, record
from des_ref.config import Settings, load_settings
from des_ref.data.source import Opened, open_source
from des_ref.embedding.optim import ROW_OPTIMIZERS
from des_ref.models.build import Network
from des_ref.models.shampoo import NAME as SHAMPOO
from des_ref.pipeline import Pipeline, endless
from des_ref.strategies import STRATEGIES, build, check_strategy
from des_ref.strategies.base import Lane, Strategy
from des_ref.strategies.ps_server import Server
from des_ref.stream.report import check_tensorboard
from des_ref.stream.run import stream
from des_ref.trace_session import TraceSession
from des_ref.training.loop import train
from des_ref.training.progress import Progress
from des_ref.training.summary import summarise
from dessim.errors import UsageError
from dessim.files import dump_json
from dessim.trace.schema import PREFETCH
from dessim.workload.model import Model, load_model
from dessim.workload.options import parse_strategy


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="des_ref.train", description=__doc__.split("\n")[0])
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
    return load_settings(args.config, {key: value for key, value in flags.items() if value is not None})


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    settings = settings_from(args)
    check_strategy(settings.strategy)
    model = load_model(settings.model).trained_by(settings.optimizer.rows.name)
    check_checkpoints(args, settings)
    check_stream(args, settings)
    with open_comm(args.device, timeout=settings.timeout_s) as comm:
        started = time.perf_counter()
        if settings.strategy == "ps_async":
            if args.trace is not None:
                raise UsageError("--trace records collectives, and ps_async has none: trace ps_sync instead")
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
