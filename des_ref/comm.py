"""Collectives: the only file that calls torch.distributed.

Every collective carries the *name* of its op in the strategy's plan, so that a recorder can tie what it sees on the
wire to what was planned. A recorder listens through `Comm.tap`; without one, nothing is measured.

Start-up reads torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) and works with no
launcher at all as a world of one. gloo on CPU, nccl on GPU.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import record

from dessim.errors import DessimError, UsageError

__all__ = ["Comm", "Handle", "Message", "Tap", "Wire", "launched_rank", "open_comm", "record"]

WORLD_GROUP = "world"
_TIMEOUT = timedelta(minutes=10)
_NAMELESS = "undefined"  # torch's description of a group that was given none
# torch 2.13 renames the flat forms; the old names warn there.
_all_gather_flat: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter_flat: Callable[..., Any] = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Tap(Protocol):
    """What a recorder is told. It sees the collectives themselves through its dispatch mode."""

    def launching(self, name: str) -> None: ...
    def launched(self, name: str) -> None: ...
    def waited(self, name: str) -> None: ...


@dataclass(slots=True)
class Handle:
    """A collective under way. `wait` returns when its result may be used; call it exactly once."""

    name: str
    _work: Any
    _comm: Comm

    def wait(self) -> None:
        self._work.wait()
        if self._comm.tap is not None:
            self._comm.tap.waited(self.name)


@dataclass(slots=True)
class Wire:
    """Messages between single processes, on the CPU. Those of one tag from one process to another arrive in order.

    `moved`: bytes sent and received, by name of the op; `servers`: ranks of the processes that serve.
    """

    servers: tuple[int, ...]
    patience: float  # seconds
    _group: Any
    moved: Counter[str] = field(default_factory=Counter)

    def send(self, name: str, tensor: Tensor, to: int, tag: int) -> Message | None:
        """Start sending; nothing is sent, and nobody may wait for it, where the tensor is empty."""
        return self._start(dist.isend, name, tensor, to, tag)

    def receive(self, name: str, tensor: Tensor, source: int, tag: int) -> Message | None:
        """Start receiving into `tensor`."""
        return self._start(dist.irecv, name, tensor, source, tag)

    def receive_any(self, tensor: Tensor, tag: int) -> int:
        """Wait for the next message of this tag; the rank it comes from."""
        try:
            return int(dist.recv(tensor, None, self._group, tag))
        except RuntimeError as error:
            raise DessimError(f"no worker was heard of for {self.patience:g} s: {_first_line(error)}") from None

    def _start(self, call: Callable[..., Any], name: str, tensor: Tensor, other: int, tag: int) -> Message | None:
        if not tensor.numel():
            return None
        self.moved[name] += tensor.numel() * tensor.element_size()
        return Message(name, other, tensor, call(tensor, other, group=self._group, tag=tag))


@dataclass(slots=True)
class Message:
    """A message under way; it keeps its tensor alive."""

    name: str
    other: int
    tensor: Tensor
    _work: Any

    def wait(self) -> None:
        try:
            self._work.wait()
        except RuntimeError as error:
            raise DessimError(f"message {self.name} with process {self.other} failed: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    """Without the place in gloo's source that it starts with."""
    return str(error).strip().split("\n")[0].rpartition("] ")[2]


@dataclass(slots=True)
class Comm:
    """All workers, seen from one of them."""

    rank: int
    world_size: int
    device: torch.device
    backend: str
    tap: Tap | None = field(default=None)
    wire: Wire | None = field(default=None)  # to the servers, where there are any
    _group: Any = field(default=None)  # None: the group that all processes are in anyway

    def beside(self, name: str) -> Comm:
        """The same workers over a group of its own, whose collectives keep no order with this one's.

        Every worker calls it, at the same point. `name` is the group's in a trace.
        """
        # Where some processes serve, they do not hear of it.
        ranks = list(range(self.world_size)) if self.wire is not None else None
        group = self._new_group(name, ranks, use_local_synchronization=ranks is not None)
        return Comm(self.rank, self.world_size, self.device, self.backend, wire=self.wire, _group=group)

    def part(self, ranks: Sequence[int]) -> Comm | None:
        """Some of the workers, in this order; None on the others. Every worker calls it, at the same point."""
        if tuple(ranks) == tuple(range(self.world_size)):
            return self
        group = self._new_group(f"part {'-'.join(map(str, ranks))}", list(ranks))
        if self.rank not in ranks:
            return None
        return Comm(ranks.index(self.rank), len(ranks), self.device, self.backend, _group=group)

    def _new_group(self, name: str, ranks: list[int] | None = None, **settings: Any) -> Any:
        return dist.new_group(
            **{"ranks": ranks, "timeout": _TIMEOUT, "backend": self.backend, "group_desc": name} | settings
        )

    def apart(self, servers: int, patience: float) -> Comm:
        """The last `servers` processes become servers; the others go on as the workers, `wire` between both.

        Every process calls it. A server's own rank is then `world_size` or more: it takes part in no collective.
        Messages that take longer than `patience` seconds fail. Raises UsageError where no worker is left.
        """
        workers = self.world_size - servers
        if workers < 1:
            raise UsageError(f"{servers} of {self.world_size} processes are servers, so no worker is left: start more")
        messages = self._new_group("servers", backend="gloo", timeout=timedelta(seconds=patience))
        wire = Wire(tuple(range(workers, self.world_size)), patience, messages)
        group = self._new_group("workers", list(range(workers)))
        return Comm(self.rank, workers, self.device, self.backend, wire=wire, _group=group)

    def _launch(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Handle:
        if self.tap is not None:
            self.tap.launching(name)
        work = call(*args, **kwargs, group=self._group, async_op=True)
        if self.tap is not None:
            self.tap.launched(name)
        return Handle(name, work, self)

    def all_reduce(self, name: str, tensor: Tensor) -> Handle:
        """Sum `tensor` over all workers, in place."""
        return self._launch(name, dist.all_reduce, tensor)

    def all_reduce_max(self, name: str, tensor: Tensor) -> Handle:
        """The element-wise maximum of `tensor` over all workers, in place."""
        return self._launch(name, dist.all_reduce, tensor, dist.ReduceOp.MAX)

    def all_gather(self, name: str, out: Tensor, tensor: Tensor) -> Handle:
        """`out` [N * n, ...] becomes the workers' `tensor` [n, ...] in rank order."""
        return self._launch(name, _all_gather_flat, out, tensor)

    def reduce_scatter(self, name: str, out: Tensor, tensor: Tensor) -> Handle:
        """`out` [n, ...] becomes this rank's chunk of the sum of the workers' `tensor` [N * n, ...]."""
        return self._launch(name, _reduce_scatter_flat, out, tensor)

    def all_to_all(
        self, name: str, out: Tensor, tensor: Tensor, out_splits: list[int] | None, in_splits: list[int] | None
    ) -> Handle:
        """Send in_splits[r] first-dimension entries of `tensor` to rank r; None: equal shares."""
        return self._launch(name, dist.all_to_all_single, out, tensor, out_splits, in_splits)

    def barrier(self) -> None:
        dist.barrier(self._group, device_ids=[self.device.index or 0] if self.device.type == "cuda" else None)

    def broadcast(self, name: str, tensor: Tensor) -> None:
        """`tensor` of rank 0, on every rank, in place."""
        self._launch(name, dist.broadcast, tensor, 0).wait()

    def gather_rows(self, name: str, values: list[float]) -> list[list[float]]:
        """Every rank's `values` (equally many), on every rank: for clocks and statistics, not for training."""
        mine = torch.tensor(values, dtype=torch.float64, device=self.device)
        out = mine.new_empty(self.world_size * len(mine))
        self.all_gather(name, out, mine).wait()
        return out.view(self.world_size, -1).tolist()

    def exchange(self, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]]) -> None:
        """All messages to and from single workers (rank, tensor) at once; returns when all have arrived."""
        works = [dist.irecv(tensor, group=self._group, group_src=rank) for rank, tensor in receives]
        works += [dist.isend(tensor, group=self._group, group_dst=rank) for rank, tensor in sends]
        for work in works:
            work.wait()

    def send(self, tensor: Tensor, to: int) -> None:
        dist.send(tensor, to)

    def receive(self, tensor: Tensor, source: int) -> None:
        dist.recv(tensor, source)


class SumFeedingReplicas(torch.autograd.Function):
    """AllReduce whose backward is the *identity*. [B, K] partials -> their sum, on every worker.

    The trap: `torch.distributed.nn.functional.all_reduce` all-reduces the gradient again. That is right when the sum
    feeds *different* computation on each worker. Here it feeds the same replicated tail everywhere, every worker has
    already computed the whole dL/dT, and since T = sum_p T_p, dL/dT_p = dL/dT: summing N equal copies would make all
    sparse gradients N times too large.
    """

    @staticmethod
    def forward(ctx: Any, partials: Tensor, comm: Comm, name: str) -> Tensor:
        total = partials.clone()
        comm.all_reduce(name, total).wait()
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0], None, None


class SumScattered(torch.autograd.Function):
    """ReduceScatter: [B, K] partials -> this worker's [B/N, K] of their sum; backward AllGathers the gradient.

    Each worker holds dL/dT for its own samples only, and dL/dT_p = dL/dT for all of them: gather, do not add.
    """

    @staticmethod
    def forward(ctx: Any, partials: Tensor, comm: Comm, name: str, grad_name: str) -> Tensor:
        ctx.comm, ctx.grad_name = comm, grad_name
        own = partials.new_empty(len(partials) // comm.world_size, partials.shape[1])
        comm.reduce_scatter(name, own, partials.detach().contiguous()).wait()
        return own

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        comm: Comm = ctx.comm
        whole = grads[0].new_empty(len(grads[0]) * comm.world_size, grads[0].shape[1])
        comm.all_gather(ctx.grad_name, whole, grads[0].contiguous()).wait()
        return whole, None, None, None


def describe_group(boxed: Any) -> tuple[str, tuple[int, ...]] | None:
    """Name and global ranks of a process group as a c10d op's argument holds it; None for any other object."""
    try:
        group = dist.ProcessGroup.unbox(boxed)
    except (RuntimeError, TypeError):
        return None
    ranks = tuple(dist.get_process_group_ranks(group))
    if group.group_name == dist.group.WORLD.group_name:
        return WORLD_GROUP, ranks
    return group.group_desc if group.group_desc != _NAMELESS else f"group_{group.group_name}", ranks


def work_future(boxed: Any) -> Any | None:
    """The future of a c10d op's boxed Work, or None where the backend has none (gloo's reduce-scatter)."""
    try:
        return dist.Work.unbox(boxed).get_future()
    except (RuntimeError, TypeError, AttributeError):
        return None


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


@contextmanager
def open_comm(device: str = "auto", rendezvous: tuple[Path, int, int] | None = None) -> Iterator[Comm]:
    """Join the process group and leave it whatever happens.

    `rendezvous` is (file, rank, world size) for processes that we spawned ourselves; otherwise torchrun's environment
    decides, and without it this is a world of one. Raises UsageError for an impossible device.
    """
    env = os.environ
    if rendezvous is not None:
        file, rank, world_size = rendezvous
        local_rank, workers_here = rank, world_size
        store = {"init_method": f"file://{file}"}
    elif "RANK" in env and "WORLD_SIZE" in env:
        rank, world_size = int(env["RANK"]), int(env["WORLD_SIZE"])
        local_rank, workers_here = launched_rank(), int(env.get("LOCAL_WORLD_SIZE", world_size))
        store = {"init_method": "env://"}
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
    dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=_TIMEOUT, **store)
    try:
        yield Comm(rank, world_size, where, backend)
    finally:
        dist.destroy_process_group()
