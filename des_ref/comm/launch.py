"""Start-up: which device, which group. torchrun's environment, a file that processes meet at, or nobody else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from des_ref.cli import RankError
from des_ref.comm.group import TIMEOUT_S, Comm
from des_ref.comm.meeting import meet
from des_ref.comm.wire import first_line
from dessim.errors import UsageError


def launched_rank() -> int:
    """This process's rank on its machine, before any process group exists; 0 without a launcher."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def _pick_device(device: str, local_rank: int, workers_here: int) -> torch.device:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if gpus >= workers_here else "cpu"
    if device == "cpu":
        return torch.device("cpu")
    if device != "cuda":
        raise UsageError(f"--device {device!r}: choose auto, cpu or cuda")
    if gpus < workers_here:
        raise UsageError(f"--device cuda: {workers_here} workers on this machine, but {gpus} GPUs")
    return torch.device("cuda", local_rank)


def _launchers_store(rank: int, world_size: int, timeout: float) -> dist.Store:
    store = next(dist.rendezvous("env://", rank, world_size, timeout=timedelta(seconds=timeout)))[0]
    store.set_timeout(timedelta(seconds=timeout))
    return dist.PrefixStore(meet(store, rank, world_size, timeout), store)


@contextmanager
def open_comm(
    device: str = "auto", rendezvous: tuple[Path, int, int] | None = None, timeout: float = TIMEOUT_S
) -> Iterator[Comm]:
    """Join the process group and leave it whatever happens.

    `rendezvous` is (file, rank, world size) for processes that we spawned ourselves; otherwise torchrun's environment
    decides, and without it this is a world of one. A collective that takes longer than `timeout` seconds fails, and so
    does a start where not everybody comes. Raises UsageError for an impossible device.
    """
    env = os.environ
    if rendezvous is not None:
        file, rank, world_size = rendezvous
        local_rank, workers_here = rank, world_size
        store = {"init_method": f"file://{file}"}
    elif "RANK" in env and "WORLD_SIZE" in env:
        rank, world_size = int(env["RANK"]), int(env["WORLD_SIZE"])
        local_rank, workers_here = launched_rank(), int(env.get("LOCAL_WORLD_SIZE", world_size))
        store = {}  # the launcher's, below: opening it waits for the others
    else:
        rank, world_size, local_rank, workers_here = 0, 1, 0, 1
        store = {"store": dist.HashStore()}
    where = _pick_device(device, local_rank, workers_here)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    if "OMP_NUM_THREADS" not in env:
        # Ranks on one machine share its cores; torch would give each of them all.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers_here))
    backend = "nccl" if where.type == "cuda" else "gloo"
    try:
        limit = timedelta(seconds=timeout)
        store = store or {"store": _launchers_store(rank, world_size, timeout)}
        dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=limit, **store)
    except (RuntimeError, TimeoutError, dist.DistError) as error:
        raise RankError(
            rank, f"not all {world_size} processes came within {timeout:g} s: {first_line(error)}"
        ) from None
    try:
        yield Comm(rank, world_size, where, backend, timeout=timeout).opened()
    finally:
        dist.destroy_process_group()
