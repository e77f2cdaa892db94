"""Start-up: the device and the process group, from torchrun's environment, a rendezvous file, or for one process."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from des_ref.cli import RankError
from des_ref.comm.group import TIMEOUT_S, Comm, backend_of
from des_ref.comm.store_prefix import agree_on_prefix
from des_ref.comm.wire import first_line
from des_ref.comm.within import within
from dessim.errors import UsageError

_RESOLVE_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class _Placement:
    """This process's rank among all processes, and among those on its machine.

    `rendezvous` are arguments of init_process_group; empty: the launcher's store, which waits for the other processes.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    rendezvous: dict[str, Any] = field(default_factory=dict)


def launched_rank() -> int:
    """This process's rank on its machine, before any process group exists; 0 without a launcher."""
    return _whole("LOCAL_RANK", 0, default=0)


@contextmanager
def open_comm(
    device: str = "auto",
    rendezvous: tuple[Path, int, int] | None = None,
    timeout: float = TIMEOUT_S,
    servers: int = 0,
) -> Iterator[Comm]:
    """Join the process group, and leave it on exit, also after an error.

    The last `servers` processes will be parameter servers (`Comm.with_servers`). They need no GPU, so the group of all
    processes then works in host memory, and `with_servers` gives the workers a group on their GPUs.

    `rendezvous` is (file, rank, world size) for processes that we spawned ourselves. Otherwise torchrun's environment
    decides; without it this is a world of one process. A collective that takes longer than `timeout` seconds fails, and
    so does a start that some processes do not join. Raises UsageError for an impossible device.
    """
    placement = _place(rendezvous)
    rank = placement.rank
    world_size = placement.world_size
    worker_device = _pick_device(device, placement, servers)
    torch_device = torch.device("cpu") if servers else worker_device
    if worker_device.type == "cuda":
        # Products of matrices then give the same bits in every run, whatever other streams do.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.cuda.set_device(worker_device)
    if "OMP_NUM_THREADS" not in os.environ:
        # Ranks on one machine share its cores; by default torch would start a thread for every core in each of them.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // placement.local_world_size))
    backend = backend_of(torch_device)
    # Given the device, NCCL connects the processes now, not in the middle of a step, and need not guess the device.
    bound = {"device_id": torch_device} if torch_device.type == "cuda" else {}
    try:
        launcher = partial(_launcher_store, rank, world_size, timeout)
        store = placement.rendezvous or {"store": within(timeout, launcher, _no_answer())}
        world = {"rank": rank, "world_size": world_size, "timeout": timedelta(seconds=timeout)}
        join = partial(dist.init_process_group, backend, **world, **bound, **store)
        # A new thread's current GPU is GPU 0, so NCCL must join in this thread.
        join() if bound else within(timeout, join)
    except (RuntimeError, TimeoutError, dist.DistError) as error:
        problem = f"not all {world_size} processes joined within {timeout:g} s: {first_line(error)}"
        raise RankError(rank, problem) from None
    try:
        comm = Comm(rank, world_size, torch_device, backend, timeout=timeout, worker_device=worker_device)
        yield comm.with_reverse_group()
    finally:
        dist.destroy_process_group()


def _place(rendezvous: tuple[Path, int, int] | None) -> _Placement:
    if rendezvous is not None:
        file, rank, world_size = rendezvous
        return _Placement(rank, world_size, rank, world_size, {"init_method": f"file://{file}"})
    lacking = [name for name in ("RANK", "WORLD_SIZE") if name not in os.environ]
    if len(lacking) == 2:
        return _Placement(rendezvous={"store": dist.HashStore()})
    lacking += [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if lacking:
        given = "RANK" if "RANK" in os.environ else "WORLD_SIZE"
        raise UsageError(f"{given} is set and {lacking[0]} is not: start with torchrun, or unset {given} to run alone")
    world_size = _whole("WORLD_SIZE", 1)
    rank = _whole("RANK", 0, world_size - 1)
    _whole("MASTER_PORT", 1, 65535)
    return _Placement(rank, world_size, launched_rank(), _whole("LOCAL_WORLD_SIZE", 1, world_size, default=world_size))


def _whole(name: str, least: int, most: int = 2**31 - 1, default: int | None = None) -> int:
    """The whole number of an environment variable. Raises UsageError."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not (text.isascii() and text.isdecimal()) or not least <= int(text[:11]) <= most:
        range_ = f"from {least} to {most}" if most < 2**31 - 1 else f"of {least} or more"
        raise UsageError(f"{name}={text}: must be a whole number {range_}; torchrun sets it")
    return int(text)


def _pick_device(device: str, placement: _Placement, servers: int) -> torch.device:
    """The device of this process, if it is a worker; the host's memory for the last `servers` processes."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    # Ranks of a machine follow each other, so its servers are its last processes.
    all_workers = placement.world_size - servers
    workers = min(placement.local_world_size, max(all_workers - (placement.rank - placement.local_rank), 0))
    if device == "auto":
        device = "cuda" if gpus and gpus >= workers else "cpu"
    if device not in ("cpu", "cuda"):
        raise UsageError(f"--device {device!r}: choose auto, cpu or cuda")
    if device == "cpu" or placement.rank >= all_workers > 0:
        return torch.device("cpu")
    if gpus < workers:
        raise UsageError(f"--device cuda: {workers} workers on this machine, but {gpus} GPUs")
    return torch.device("cuda", placement.local_rank)


def _no_answer() -> str:
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    return f"no answer at {address}: rank 0 has not begun, or another program listens there"


def _launcher_store(rank: int, world_size: int, timeout: float) -> dist.Store:
    deadline = time.monotonic() + timeout
    _await_name(rank, os.environ["MASTER_ADDR"], deadline)
    limit = timedelta(seconds=_left(deadline))
    store = next(dist.rendezvous("env://", rank, world_size, timeout=limit))[0]
    store.set_timeout(timedelta(seconds=timeout))
    return dist.PrefixStore(agree_on_prefix(store, rank, world_size, _left(deadline)), store)


def _await_name(rank: int, host: str, deadline: float) -> None:
    """Return once `host` can be resolved: the name of a container may be published after others start.

    torch would retry too, and print a long stack trace for each attempt. Raises RankError after the deadline, and at
    once if `host` cannot be a name.
    """
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except (OSError, UnicodeError) as error:
            if isinstance(error, UnicodeError) or time.monotonic() + _RESOLVE_EVERY_S > deadline:
                raise RankError(rank, f"MASTER_ADDR={host}: cannot be resolved: {error}") from None
        time.sleep(_RESOLVE_EVERY_S)


def _left(deadline: float) -> float:
    """Seconds until the deadline, but at least 1: enough for processes that have all started to find each other."""
    return max(deadline - time.monotonic(), 1.0)
