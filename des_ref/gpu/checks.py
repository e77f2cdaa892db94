"""The list of checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from des_ref.bench_ops import measure
from des_ref.comm import Comm
from des_ref.device.kernels import Sizes
from des_ref.device.part import to_toml
from des_ref.gpu import ranks as several
from des_ref.gpu import training, values
from des_ref.gpu.machine import Figures, Machine
from des_ref.gpu.processes import Work, on_ranks
from dessim.files import write_text

# A check that starts ranks and programs itself.
Planned = Callable[[Machine, int, float], Figures]


@dataclass(frozen=True, slots=True)
class Check:
    """`run(machine, limit_s)` returns figures, or raises CheckFailed or Skipped. It takes at most `limit_s` seconds."""

    name: str
    run: Callable[[Machine, float], Figures]


_ON_ONE: tuple[tuple[str, Work], ...] = (
    ("tables", values.tables),
    ("codecs", values.codecs),
    ("optimizers", values.optimizers),
    ("sums", values.sums),
    ("pipeline", training.pipeline),
    ("checkpoint", training.checkpoint),
    ("waits", training.waits),
)


def checks(ranks: Sequence[int]) -> Iterator[Check]:
    """The checks in the order in which they run: those that others rely on come first, long ones last."""
    for name, work in _ON_ONE:
        yield Check(name, partial(_ranks_of, work, 1, 0))
    yield Check("profile", partial(_ranks_of, profile, 1, 0))
    yield Check("memory", partial(_planned, several.memory, 1))
    for n in ranks:
        yield Check(f"certificate, {n}", partial(_ranks_of, several.certificate, n, 0))
        yield Check(f"steps, {n}", partial(_planned, several.steps, n))
    for n in ranks:
        if n > 1:
            yield Check(f"replicas, {n}", partial(_ranks_of, several.replicas, n, 0))
    yield Check(f"ps_async, {ranks[-1]}", partial(_ranks_of, several.ps_async, ranks[-1], 1))
    yield Check(f"kill and resume, {ranks[-1]}", partial(_planned, several.resumed, ranks[-1]))


def profile(comm: Comm, machine: Machine) -> Figures:
    """The rates of the device, written as a part that `dessim project --device` reads."""
    sizes = Sizes.of(comm.device)
    if machine.small:
        sizes = Sizes(((64, 64, 64),), (64, 128), (1000,), 1 << 20, 1 << 20)
    with torch.inference_mode():
        measured = measure(comm.device, sizes, 0.01 if machine.small else 0.1)
    write_text(machine.folder / "device.toml", to_toml(measured))
    rates: Figures = {f"{name}_flops": rate for name, rate in measured.rates().items()}
    return rates | {
        "memory_bytes_per_s": measured.bandwidth,
        "floor_s": measured.floor_s,
        "launch_s": measured.launch_s,
    }


def _ranks_of(work: Work, ranks: int, servers: int, machine: Machine, limit_s: float) -> Figures:
    return on_ranks(machine, work, ranks, limit_s, servers)


def _planned(run: Planned, ranks: int, machine: Machine, limit_s: float) -> Figures:
    return run(machine, ranks, limit_s)
