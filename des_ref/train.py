"""Train a click-through-rate model, alone or under torchrun.

    python -m des_ref.train --json
    torchrun --standalone --nproc-per-node=4 -m des_ref.train --data ml-100k --json
    torchrun --standalone --nproc-per-node=4 -m des_ref.train --trace run.trace --trace-steps 20 --steps 100
    torchrun --standalone --nproc-per-node=4 -m des_ref.train --plan job.plan.toml      (docs/planner.md)
    torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 --rdzv-id=JOB -m des_ref.train
    python -m des_ref.train --data train.txt.gz --model deepfm          (Criteo's columns)
    zcat day_*.gz | python -m des_ref.train --data stream --input - --model deepfm      (docs/streaming.md)

Progress goes to stderr; with --json, rank 0 prints one JSON object on stdout at the end. AUC and log loss are those of
the held-out test samples after the epoch with the best validation AUC.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from des_ref.checkpoint import resume
from des_ref.cli import run, say
from des_ref.comm import Comm, Encoding, open_comm, record, require_same
from des_ref.config import Settings
from des_ref.models.build import Network
from des_ref.strategies import build
from des_ref.strategies.base import Strategy
from des_ref.strategies.ps_server import Server
from des_ref.stream.run import stream
from des_ref.substitution.head import require_allowed
from des_ref.tracing.session import TraceOptions
from des_ref.train_flags import parser, settings_from
from des_ref.training.samples import train_on_samples
from dessim.errors import UsageError
from dessim.files import dump_json, write_json
from dessim.processes import leave
from dessim.workload.model import Model


def main(argv: Sequence[str] | None = None) -> int:
    args = parser(__doc__.splitlines()[0]).parse_args(argv)
    settings = settings_from(args)
    model = settings.load_model()
    require_allowed(model, args.allow_code)
    servers = settings.servers.count if settings.has_server_processes else 0
    with open_comm(args.device, timeout=settings.timeout_s, servers=servers) as world:
        summary = _train(args, settings, model, world)
        if summary is not None and world.rank == 0:
            scored_rows = "progressive" if settings.is_stream else "test"
            say(f"{scored_rows} {_quality(summary)}  {summary['samples_per_s']:,.0f} samples/s")
            if args.out is not None:
                write_json(args.out, summary)
            if args.json:
                print(dump_json(summary), flush=True)
    return 0


def _train(args: argparse.Namespace, settings: Settings, model: Model, world: Comm) -> dict[str, Any] | None:
    """Train, or serve in a server process of ps_async. Returns the JSON object of the run; None in a server."""
    started_at = time.perf_counter()
    comm = world
    require_same(world, _shared(args, settings, model))
    if settings.has_server_processes:
        comm = world.with_servers(settings.servers.count, min(settings.servers.patience_s, settings.timeout_s))
    if settings.plan is not None and settings.plan.gpus != comm.world_size:
        planned = f"{settings.plan.path} is for {settings.plan.gpus} workers, and {comm.world_size} run"
        raise UsageError(f"--plan: {planned}: start as many processes, or plan again with dessim plan")
    if settings.training.batch % comm.world_size:
        raise UsageError(f"--batch {settings.training.batch} is not divisible by {comm.world_size} workers")
    if comm.rank >= comm.world_size:
        network = Network(model, settings.seed, settings.torch_dtype, "cpu")
        Server(network, settings.optimizers, comm, settings.servers.staleness).serve()
        return None
    folder = Path(settings.checkpoint.folder) if settings.checkpoint.folder else None
    with resume.chosen(folder, args.resume, comm) as checkpoint:
        strategy = build_strategy(settings, model, comm)
        if settings.is_stream:
            summary = stream(settings, model, comm, strategy, checkpoint)
        else:
            trace = TraceOptions(args.trace, args.trace_warmup, args.trace_steps) if args.trace is not None else None
            summary = train_on_samples(
                settings, model, comm, strategy, checkpoint=checkpoint, trace=trace, epoch_log=args.epoch_log
            )
    tally = strategy.close()
    summary["servers"] = settings.servers.count if tally is not None else 0
    summary["staleness"] = {"bound": settings.servers.staleness, **tally.to_json()} if tally is not None else None
    summary["trace"] = str(args.trace) if args.trace is not None else None
    summary["wall_time_s"] = time.perf_counter() - started_at
    return summary


def _shared(args: argparse.Namespace, settings: Settings, model: Model) -> dict[str, Any]:
    """The settings that every process of a run must share; names of files may differ between machines.

    The laws of `--ids` are in the model.
    """
    names_of_files = {"model": True, "ids": True, "data": {"source"}, "stream": {"inputs", "log", "tensorboard"}}
    names_of_files |= {"checkpoint": {"folder"}, "plan": {"path"}}
    source = settings.data.source
    return {
        "settings": settings.model_dump(mode="json", exclude=names_of_files),
        "model": model.model_dump(mode="json"),
        "data": source if source in ("ml-100k", "synthetic", "stream") else "a file",
        "checkpoint": settings.checkpoint.folder is not None,
        "resume": args.resume is not None,
        "trace": [args.trace is not None, args.trace_steps, args.trace_warmup],
        "epoch-log": args.epoch_log is not None,
    }


def build_strategy(settings: Settings, model: Model, comm: Comm) -> Strategy:
    """The model with its optimizers and codecs, under the strategy of the settings."""
    network = Network(model, settings.seed, settings.torch_dtype, comm.device)
    encoding = Encoding(settings.wire.codes, settings.seed)
    return build(
        settings.strategy,
        network,
        settings.optimizers,
        comm,
        encoding=encoding,
        tables=settings.tables,
        replicas=settings.replicas,
    )


def _quality(summary: Mapping[str, Any]) -> str:
    if summary["loss"] is None:
        return "no rows"
    if summary["logloss"] is None:
        return f"loss {summary['loss']:.4f}"
    auc = "undefined (one class only)" if summary["auc"] is None else f"{summary['auc']:.4f}"
    return f"AUC {auc}  log loss {summary['logloss']:.4f}"


@record
def entry() -> None:
    leave(run("des_ref.train", main))


if __name__ == "__main__":
    entry()
