"""Whole training steps on one device: the same bits however they are run, few waits of the host, memory."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from des_ref.checkpoint import folder as checkpoints
from des_ref.checkpoint import resume
from des_ref.checkpoint.writer import Writer
from des_ref.comm import Comm
from des_ref.data.batch import Batch
from des_ref.data.synthetic import Zipf
from des_ref.device.emulated import EMULATED, emulated
from des_ref.device.peak_memory import peak_bytes
from des_ref.gpu.machine import Figures, Machine, require
from des_ref.models.build import Network
from des_ref.pipeline import Pipeline, endless
from des_ref.progress import Progress
from des_ref.strategies import build
from des_ref.strategies.base import Lane, Optimizers, Strategy
from dessim.trace.schema import PREFETCH
from dessim.workload.model import Model, load_model

_WARNING = "CUDA operation"  # in torch's warning about a wait
MOST_WAITS = 5  # of a DES step; docs/gpu.md lists them


def model_of(machine: Machine) -> Model:
    """The model that the checks train."""
    return load_model(model_name(machine)).trained_by(Optimizers().rows.name)


def model_name(machine: Machine) -> str:
    """Its name among the shipped models."""
    return "deepfm_ml100k" if machine.small else "deepfm"


def samples_of(machine: Machine) -> int:
    """Samples of a worker in a step."""
    return machine.size(4096, 64)


def built(comm: Comm, model: Model, strategy: str) -> Strategy:
    """A strategy with the default optimizers, on new float32 parameters."""
    return build(strategy, Network(model, 1, torch.float32, comm.device), Optimizers(), comm)


def some_batches(machine: Machine, model: Model, count: int, ranks: int = 1) -> list[Batch]:
    """Global batches in host memory."""
    samples = samples_of(machine) * ranks
    examples = Zipf.of(model, 0).examples(samples * count)
    return [examples.take(torch.arange(i * samples, (i + 1) * samples)) for i in range(count)]


def digest(strategy: Strategy) -> str:
    """SHA-256 of all bits of rows and replicated parameters, with their optimizer state. Every worker calls it."""
    sha256 = hashlib.sha256()
    rows = strategy.table.export()["rows"]
    for name, values in sorted({**rows, **{f"dense/{k}": v for k, v in strategy.dense_state().items()}}.items()):
        sha256.update(name.encode())
        sha256.update(values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def digest_of_parameters(network: Network) -> str:
    """SHA-256 of all bits of this worker's dense parameters."""
    flat = torch.cat([p.detach().reshape(-1) for p in network.dense_parameters])
    return hashlib.sha256(flat.cpu().numpy().tobytes()).hexdigest()


def pipeline(comm: Comm, machine: Machine) -> Figures:
    """Steps with and without the pipeline, and with it once more, end in the same bits."""
    model = model_of(machine)
    steps = machine.size(30, 4)
    source = Zipf.of(model, 0).open(samples_of(machine) * 5)
    digests = []
    for ahead in (True, False, True):
        trainer = built(comm, model, "des_all_reduce")
        lane = Lane(comm.separate_group(PREFETCH)) if ahead else None
        line = Pipeline(trainer, comm, endless(source, samples_of(machine), comm), lane)
        for _ in range(steps):
            line.step()
        line.close()
        digests.append(digest(trainer))
    require(digests[0] == digests[2], "two runs with the pipeline end in different bits")
    require(digests[0] == digests[1], "runs with and without the pipeline end in different bits")
    return {"steps": steps, "sha256": digests[0][:16]}


def checkpoint(comm: Comm, machine: Machine) -> Figures:
    """Training on the CPU, saved, restored on the device: the same bits, and the next step is the same to rounding."""
    model = model_of(machine)
    batches = some_batches(machine, model, 4)
    on_cpu = built(comm.on_cpu("host"), model, "des_all_reduce")
    for batch in batches[:3]:
        on_cpu.step(batch)
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer(comm, Path(folder), 1, 1, {})
        writer.save(on_cpu, Progress(steps=3))
        writer.finish()
        writer.close()
        on_device = built(comm, model, "des_all_reduce")
        (saved,) = checkpoints.newest_first(Path(folder))
        resume.restore_run(on_device, saved, {}, comm)
    require(digest(on_cpu) == digest(on_device), "the restored state differs from the saved one")
    expected = float(on_cpu.step(batches[3]).loss)
    loss = float(on_device.step(batches[3].to(comm.device)).loss)
    require(abs(loss - expected) <= 1e-4, f"the next loss is {loss:.6f}, and {expected:.6f} on the CPU")
    return {"rows": len(on_device.table), "next_loss_difference": abs(loss - expected)}


def waits(comm: Comm, machine: Machine) -> Figures:
    """How often the host waits for the device in a step; counted by CUDA, on a CPU by des_ref.device.emulated."""
    model = model_of(machine)
    most: Figures = {}
    comm = comm if comm.device.type == "cuda" else replace(comm, device=EMULATED)
    with _waits_counted(comm.device) as count:
        for strategy in ("des_all_reduce", "des_reduce_scatter"):
            trainer = built(comm, model, strategy)
            wait_counts = []
            for batch in some_batches(machine, model, machine.size(20, 12)):
                on_device = batch.to(comm.device)
                wait_counts.append(count(partial(_step, trainer, on_device)))
            # A step in which the table replaces its index waits a little more often.
            usual = sorted(wait_counts)[len(wait_counts) // 2]
            most[strategy] = usual
            require(usual <= MOST_WAITS, f"the host waits {usual} times in a step of {strategy}; {MOST_WAITS} allowed")
    return most


def _step(trainer: Strategy, batch: Batch) -> float:
    return float(trainer.step(batch).loss)


@contextmanager
def _waits_counted(device: torch.device) -> Iterator[Callable[[Callable[[], object]], int]]:
    """Yields a function that runs a call and returns the number of waits."""
    if device.type != "cuda":
        with emulated() as counts:

            def on_emulation(call: Callable[[], object]) -> int:
                counts.clear()
                call()
                return counts.waits.total()

            yield on_emulation
        return

    def on_cuda(call: Callable[[], object]) -> int:
        torch.cuda.synchronize(device)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                call()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum(_WARNING in str(warning.message) for warning in caught)

    yield on_cuda


def peak(comm: Comm, machine: Machine) -> Figures:
    """The peak memory of a step, beyond that allocated before it."""
    model = model_of(machine)
    (whole,) = some_batches(machine, model, 1)
    trainer = built(comm, model, "des_all_reduce")
    batch = whole.to(comm.device)
    for _ in range(2):  # inserts the rows, and creates the optimizer's state
        trainer.step(batch)
    return {"peak_bytes": peak_bytes(comm, partial(trainer.step, batch))}
