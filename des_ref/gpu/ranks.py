"""Checks on any number of GPUs: certificate, replicas, parameter servers, kill and resume, steps."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from des_ref import train
from des_ref.certify.group import synchronous_runner
from des_ref.certify.matrix import every_case, pairwise
from des_ref.certify.show import passed
from des_ref.checkpoint.folder import newest_first
from des_ref.comm import Comm
from des_ref.data.batch import slice_of
from des_ref.data.synthetic import Zipf
from des_ref.gpu.machine import CheckTimedOut, Figures, Machine, require
from des_ref.gpu.processes import LOG, launch, on_ranks
from des_ref.gpu.training import (
    built,
    digest,
    digest_of_parameters,
    model_name,
    model_of,
    peak,
    samples_of,
    some_batches,
)
from des_ref.models.build import Network
from des_ref.pipeline import Pipeline, endless
from des_ref.strategies.base import Lane, Optimizers
from des_ref.strategies.ps_async import PsAsync
from des_ref.strategies.ps_server import Server
from des_ref.tracing.session import TraceOptions, TraceSession
from dessim.errors import CheckFailed
from dessim.files import write_text
from dessim.trace.schema import PREFETCH
from dessim.workload.strategies import spec_of

STRATEGY = "des_all_reduce"
STALENESS = 2
_MODELS = ("deepfm_multihot", "dcn", "dlrm", "xdeepfm_split", "fvae")
_TIMEOUT_S = 60.0
_SPARE = 256 << 20  # bytes beyond the formula that a step may take, for searching the table and by the allocator


def certificate(comm: Comm, machine: Machine) -> Figures:
    """Every strategy, placement and row optimizer against one process, in float64, and the bytes of every op."""
    models = ("deepfm_ml100k",) if machine.small else _MODELS
    cases = every_case([comm.world_size], machine.size(5, 2), machine.device, pipeline=True, staleness=0, models=models)
    cases = pairwise([case for case in cases if spec_of(case.strategy).synchronous])[: machine.size(160, 3)]
    run = synchronous_runner(comm, True)
    results = [run(case) | {"case": case.label} for case in cases]
    if comm.rank:
        return {}
    failed = [result["case"] for result in results if not passed(result)]
    require(not failed, f"{len(failed)} of {len(results)} cases fail, the first one {failed[0] if failed else ''}")
    worst = max(result["max_param_diff"] for result in results)
    return {"cases": len(results), "max_parameter_difference": worst}


def replicas(comm: Comm, machine: Machine) -> Figures:
    """After many steps, what every rank holds is the same to the last bit."""
    model = model_of(machine)
    steps = machine.size(1000, 4)
    batches = some_batches(machine, model, 8, comm.world_size)
    for strategy in ("data_parallel", STRATEGY):
        trainer = built(comm, model, strategy)
        own = [trainer.share(batch).to(comm.device) for batch in batches]
        for batch in islice(cycle(own), steps // 2):
            trainer.step(batch)
        mine = digest(trainer) if trainer.rows_replicated else digest_of_parameters(trainer.network)
        digests = comm.gather_text("digests", mine)
        differing = [rank for rank, other in enumerate(digests) if other != digests[0]]
        require(not differing, f"{strategy}: after {steps // 2} steps ranks {differing} differ from rank 0")
    return {"steps": steps}


def ps_async(world: Comm, machine: Machine) -> Figures:
    """Workers on GPUs and a server in host memory train together; pulls keep the bound of staleness."""
    comm = world.with_servers(1, _TIMEOUT_S)
    model = model_of(machine)
    steps = machine.size(200, 4)
    network = Network(model, 1, torch.float32, comm.device)
    if comm.rank >= comm.world_size:
        Server(network, Optimizers(), comm, STALENESS).serve()
        return {}
    trainer = PsAsync(network, Optimizers(), comm)
    batches = some_batches(machine, model, 8, comm.world_size)
    own = [slice_of(batch, comm.rank, comm.world_size).to(comm.device) for batch in batches]
    losses = [float(trainer.step(batch).loss) for batch in islice(cycle(own), steps)]
    tally = trainer.close().to_json()
    require(all(map(math.isfinite, losses)), "the loss is not finite")
    require(tally["max"] <= STALENESS, f"a pull is {tally['max']:.0f} steps stale; {STALENESS} are allowed")
    return {"steps": steps, "stale_mean": tally["mean"], "stale_max": tally["max"], "last_loss": losses[-1]}


def resumed(machine: Machine, ranks: int, limit_s: float) -> Figures:
    """A run that is killed and resumed ends with the scores of a run that is not."""
    ends_at = time.monotonic() + limit_s
    steps = machine.size(60, 6)
    every = machine.size(20, 2)
    log = machine.folder / LOG
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "run.toml"
        samples = samples_of(machine) * ranks * 10
        data = f'[data]\nsource = "synthetic"\nsamples = {samples}\n'
        write_text(settings, f'schema_version = 1\nmodel = "{model_name(machine)}"\n{data}')
        common = ["--config", str(settings), "--device", machine.device, "--batch", str(samples_of(machine) * ranks)]
        common += ["--timeout", str(_TIMEOUT_S), "--checkpoint-every", str(every), "--epochs", "1000000"]
        whole = [*common, "--steps", str(steps), "--checkpoint", f"{folder}/whole", "--out", f"{folder}/whole.json"]
        launch(train.main, whole, ranks, log).wait(ends_at - time.monotonic())
        own = [*common, "--checkpoint", f"{folder}/own"]
        running = launch(train.main, [*own, "--steps", str(steps)], ranks, log)
        try:
            while not newest_first(Path(folder) / "own"):
                if time.monotonic() > ends_at:
                    raise CheckTimedOut("the run to be killed wrote no checkpoint in time")
                if all(process.exitcode is not None for process in running.processes):
                    raise CheckFailed("the run to be killed wrote no checkpoint")
                time.sleep(0.01)
        finally:
            running.kill_one()
        killed_after = int(newest_first(Path(folder) / "own")[0].name.rpartition("-")[2])
        rest = [*own, "--steps", str(steps), "--resume", "--out", f"{folder}/own.json"]
        launch(train.main, rest, ranks, log).wait(ends_at - time.monotonic())
        scores = [json.loads((Path(folder) / f"{name}.json").read_text("utf-8")) for name in ("whole", "own")]
    first, second = ({key: score[key] for key in ("auc", "logloss", "steps")} for score in scores)
    require(first == second, f"the resumed run ends with {second}, the other one with {first}")
    return {"steps": steps, "killed_after_step": killed_after, "logloss": first["logloss"]}


def traced(comm: Comm, machine: Machine) -> Figures:
    """Record a trace of training steps, and time further ones."""
    model = model_of(machine)
    batch = samples_of(machine) * comm.world_size
    warmup = machine.size(10, 2)
    steps = machine.size(20, 2)
    trainer = built(comm, model, STRATEGY)
    source = Zipf.of(model, 0).open(batch * 5)
    line = Pipeline(trainer, comm, endless(source, batch, comm), Lane(comm.separate_group(PREFETCH)))
    session = TraceSession(
        TraceOptions(_trace(machine, comm.world_size), warmup, steps),
        comm,
        trainer,
        pipeline=line,
        model=model,
        batch=batch,
    )
    while not session.done:
        session.step()
    line.close()
    return {"batch": batch}


def _trace(machine: Machine, ranks: int) -> Path:
    return machine.folder / f"steps-{ranks}.trace"


def memory(machine: Machine, ranks: int, limit_s: float) -> Figures:
    """The highest memory of a step on one GPU, against the formula of its activations."""
    ends_at = time.monotonic() + limit_s
    measured = on_ranks(machine, peak, 1, limit_s)["peak_bytes"]
    (projected,) = _dessim([*_job(machine, 1), "--no-pipeline"], ends_at)["projection"]
    planned = projected["memory"]["activations_bytes"]
    allowed = 1.5 * planned + _SPARE
    require(float(measured) <= allowed, f"a step takes {float(measured):.3g} B; the formula says {planned:.3g} B")
    return {"peak_bytes": measured, "formula_bytes": round(planned)}


def steps(machine: Machine, ranks: int, limit_s: float) -> Figures:
    """A step measured, predicted from its own trace, and projected from the plan with the measured device."""
    ends_at = time.monotonic() + limit_s
    trace = _trace(machine, ranks)
    shutil.rmtree(trace, ignore_errors=True)
    on_ranks(machine, traced, ranks, limit_s)
    replayed = _dessim(["replay", str(trace), "--cluster", machine.cluster], ends_at)
    device = machine.folder / "device.toml"
    own_device = ["--device", str(device)] if device.is_file() else []
    (projected,) = _dessim([*_job(machine, ranks), *own_device], ends_at)["projection"]
    measured = replayed["measured_step_s"]
    return {
        "measured_s": measured,
        "replayed_s": replayed["predicted_step_s"],
        "replay_error": replayed["predicted_step_s"] / measured - 1,
        "projected_s": projected["step_time_s"],
        "projection_error": projected["step_time_s"] / measured - 1,
        "samples_per_s": samples_of(machine) * ranks / measured,
    }


def _job(machine: Machine, ranks: int) -> list[str]:
    """The arguments of `dessim` that project a step of the checks."""
    job = ["--model", model_name(machine), "--strategy", STRATEGY, "--batch-per-worker", str(samples_of(machine))]
    return ["project", *job, "--cluster", machine.cluster, "--gpus", str(ranks)]


def _dessim(arguments: list[str], ends_at: float) -> dict[str, Any]:
    """The JSON object of a command of dessim, which runs as its own program."""
    command = [sys.executable, "-m", "dessim", *arguments, "--json"]
    try:
        limit_s = max(ends_at - time.monotonic(), 1.0)
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise CheckTimedOut(f"dessim {arguments[0]} was not done in time") from None
    if done.returncode:
        raise CheckFailed(f"dessim {arguments[0]}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
