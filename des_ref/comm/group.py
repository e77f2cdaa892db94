"""A group of workers and its collectives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as nnf
from torch import Tensor

from des_ref.cli import RankError
from des_ref.comm import direct
from des_ref.comm.wire import Wire, first_line
from des_ref.comm.within import within
from dessim.errors import UsageError
from dessim.trace.schema import Collective, Phase

WORLD_GROUP = "world"
TIMEOUT_S = 600.0
_REVERSE_SUFFIX = ", second"
_NO_DESCRIPTION = "undefined"  # what torch reports for a group without a description
# torch 2.13 renames the flat collectives and warns about the old names.
_all_gather_flat: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter_flat: Callable[..., Any] = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Tap(Protocol):
    """Callbacks of a recorder. It sees the collectives themselves through its dispatch mode.

    `segment` surrounds compute that belongs to an op. `note` passes size symbols that only the sender knows.
    `launching` and `launched` surround a launch, `waited` follows a wait. `built_as` is the collective that a launch
    builds from point-to-point messages; None: torch has it as one op.
    """

    def segment(self, name: str, phase: Phase) -> AbstractContextManager[None]: ...
    def note(self, name: str, symbols: Mapping[str, float]) -> None: ...
    def launching(self, name: str, built_as: Collective | None = None) -> None: ...
    def launched(self, name: str) -> None: ...
    def waited(self, name: str) -> None: ...


@dataclass(slots=True)
class Handle:
    """A collective in flight. `wait` returns when its result may be used; call it exactly once."""

    name: str
    _work: Any
    _comm: Comm

    def wait(self) -> None:
        """Raises RankError when another worker has died or stays silent for longer than the group's timeout."""
        with self._comm.peer_errors(self.name, waiting=True):
            self._work.wait()
        if self._comm.tap is not None:
            self._comm.tap.waited(self.name)


@dataclass(slots=True)
class Comm:
    """All workers, seen from one of them: `rank` of `world_size`.

    wire           messages to parameter servers, where there are any
    timeout        seconds that a collective may take before it fails
    worker_device  device of the workers, if servers without a GPU are in this group
    _group         the process group; None: torch's default group
    _reverse       over gloo between two ranks, a second group of the same ranks, for what rank 1 sends (direct.py)
    """

    rank: int
    world_size: int
    device: torch.device
    backend: str
    tap: Tap | None = field(default=None)
    wire: Wire | None = field(default=None)
    timeout: float = TIMEOUT_S
    worker_device: torch.device | None = field(default=None)
    _group: Any = field(default=None)
    _reverse: Any = field(default=None)

    # -- further groups -------------------------------------------------------------------------------------------

    def separate_group(self, name: str) -> Comm:
        """The same workers over another process group; its collectives are not ordered with this one's.

        Every worker calls it, at the same point. `name` is the group's name in a trace.
        """
        # Parameter servers do not take part in this call, so the workers must create the group among themselves.
        ranks = list(range(self.world_size)) if self.wire is not None else None
        return replace(self, tap=None, **self._new_groups(name, ranks, use_local_synchronization=ranks is not None))

    def on_cpu(self, name: str) -> Comm:
        """Like `separate_group`, for tensors in host memory."""
        return replace(self, device=torch.device("cpu"), backend="gloo").separate_group(name)

    def subgroup(self, ranks: Sequence[int]) -> Comm | None:
        """A group of some of the workers, in this order; None on the others. Every worker calls it."""
        if tuple(ranks) == tuple(range(self.world_size)):
            return self
        groups = self._new_groups(f"part {'-'.join(map(str, ranks))}", list(ranks))
        if self.rank not in ranks:
            return None
        return replace(self, rank=ranks.index(self.rank), world_size=len(ranks), tap=None, wire=None, **groups)

    def with_servers(self, servers: int, timeout_s: float) -> Comm:
        """Turn the last `servers` processes into parameter servers; the others stay workers, connected by `wire`.

        Every process calls it. A server's own rank is then `world_size` or more, and it takes part in no collective.
        A message that takes longer than `timeout_s` seconds fails. Raises UsageError if no worker would be left.
        """
        workers = self.world_size - servers
        if workers < 1:
            raise UsageError(f"{servers} of {self.world_size} processes are servers, so no worker is left: start more")
        messages = self._new_group("servers", backend="gloo", timeout=timedelta(seconds=timeout_s))
        wire = Wire(self.rank, tuple(range(workers, self.world_size)), timeout_s, messages)
        device = self.worker_device or self.device
        of_workers = replace(self, world_size=workers, wire=wire, device=device, backend=backend_of(device))
        return replace(of_workers, **of_workers._new_groups("workers", list(range(workers))))

    def with_reverse_group(self) -> Comm:
        """This group, with the second group that direct.py needs between two ranks."""
        return replace(self, _reverse=self._new_reverse("world", self.world_size))

    def _new_groups(self, name: str, ranks: list[int] | None, **settings: Any) -> dict[str, Any]:
        group = self._new_group(name, ranks, **settings)
        count = self.world_size if ranks is None else len(ranks)
        return {"_group": group, "_reverse": self._new_reverse(name, count, ranks=ranks, **settings)}

    def _new_reverse(self, name: str, count: int, **settings: Any) -> Any:
        is_gloo_pair = count == 2 and self.backend == "gloo"
        return self._new_group(f"{name}{_REVERSE_SUFFIX}", **settings) if is_gloo_pair else None

    def _new_group(self, name: str, ranks: list[int] | None = None, **settings: Any) -> Any:
        timeout = timedelta(seconds=self.timeout)
        settings = {"ranks": ranks, "timeout": timeout, "backend": self.backend, "group_desc": name} | settings
        with self.peer_errors(f"start of group {name}"):
            start = partial(dist.new_group, **settings)
            # A new thread's current GPU is GPU 0, so a group of NCCL must start in this thread.
            return within(self.timeout, start) if settings["backend"] == "gloo" else start()

    # -- collectives ----------------------------------------------------------------------------------------------

    @contextmanager
    def peer_errors(self, name: str, waiting: bool = False) -> Iterator[None]:
        """Turn torch's errors about a peer that died or hangs in op `name` into a one-line RankError.

        `waiting`: the call only waits, so every error is about a peer. Another call may also fail because of its
        arguments; such an error is raised as it is.
        """
        try:
            yield
        except (RuntimeError, TimeoutError) as error:
            is_of_peer = waiting or isinstance(error, dist.DistError | TimeoutError) or "gloo" in str(error)
            if not is_of_peer:
                raise  # an error of this process, not of a peer
            problem = f"op {name} failed, because another process has died or was silent for {self.timeout:g} s"
            raise RankError(self.rank, f"{problem}: {first_line(error)}") from None

    def _launch(self, name: str, call: Callable[..., Any], *args: Any, built_as: Collective | None = None) -> Handle:
        if self.tap is not None:
            self.tap.launching(name, built_as)
        with self.peer_errors(name):
            work = call(*args, group=self._group, async_op=True)
        if self.tap is not None:
            self.tap.launched(name)
        return Handle(name, work, self)

    def all_reduce(self, name: str, tensor: Tensor) -> Handle:
        """Sum `tensor` over all workers, in place."""
        return self._launch(name, dist.all_reduce, tensor)

    def gradient(self, name: str, grad: Tensor) -> Tensor:
        """The gradient of this worker's summand, given that of the sum `name`: equal, unless a codec drops values."""
        return grad

    def all_reduce_max(self, name: str, tensor: Tensor) -> Handle:
        """Take the element-wise maximum of `tensor` over all workers, in place."""
        return self._launch(name, dist.all_reduce, tensor, dist.ReduceOp.MAX)

    def all_gather(self, name: str, out: Tensor, tensor: Tensor) -> Handle:
        """Write the workers' `tensor` [n, ...] into `out` [N * n, ...] in rank order."""
        if self.backend == "gloo" and self.world_size == 2:
            return self._launch(name, direct.all_gather, out, tensor, self._reverse, built_as=Collective.ALL_GATHER)
        return self._launch(name, _all_gather_flat, out, tensor)

    def reduce_scatter(self, name: str, out: Tensor, tensor: Tensor) -> Handle:
        """Write this rank's chunk of the sum of the workers' `tensor` [N * n, ...] into `out` [n, ...]."""
        if self.backend == "gloo" and self.world_size > 1:
            built_as = Collective.REDUCE_SCATTER
            return self._launch(name, direct.reduce_scatter, out, tensor, self._reverse, built_as=built_as)
        return self._launch(name, _reduce_scatter_flat, out, tensor)

    def all_to_all(
        self, name: str, out: Tensor, tensor: Tensor, out_splits: list[int] | None, in_splits: list[int] | None
    ) -> Handle:
        """Send in_splits[r] first-dimension entries of `tensor` to rank r; None: equal shares."""
        return self._launch(name, dist.all_to_all_single, out, tensor, out_splits, in_splits)

    def barrier(self) -> None:
        """Wait until every worker has called it."""
        with self.peer_errors("barrier", waiting=True):
            dist.barrier(self._group, device_ids=[self.device.index or 0] if self.device.type == "cuda" else None)

    def broadcast(self, name: str, tensor: Tensor) -> None:
        """Copy rank 0's `tensor` to every rank, in place."""
        self._launch(name, partial(dist.broadcast, group_src=0), tensor).wait()

    def synchronize(self) -> None:
        """Wait until the device has finished everything on this thread's current stream; returns at once on a CPU."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    # -- for clocks and statistics, not for training --------------------------------------------------------------

    def gather_rows(self, name: str, values: list[float]) -> list[list[float]]:
        """Every rank's `values` (the same number each), on every rank."""
        mine = torch.tensor(values, dtype=torch.float64, device=self.device)
        out = mine.new_empty(self.world_size * len(mine))
        self.all_gather(name, out, mine).wait()
        return out.view(self.world_size, -1).tolist()

    def gather_text(self, name: str, text: str) -> list[str]:
        """Every rank's text, on every rank."""
        mine = torch.tensor(list(text.encode()), dtype=torch.uint8)
        sizes = [int(size) for (size,) in self.gather_rows(name, [float(len(mine))])]
        padded = nnf.pad(mine, (0, max(sizes) - len(mine))).to(self.device)
        out = padded.new_empty(self.world_size, max(sizes))
        if max(sizes):
            self.all_gather(name, out.view(-1), padded).wait()
        return [bytes(line[:size].tolist()).decode() for line, size in zip(out.cpu(), sizes, strict=True)]

    # -- point-to-point -------------------------------------------------------------------------------------------

    def exchange(self, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]]) -> None:
        """Send and receive (rank, tensor) messages concurrently; returns when all have arrived.

        All are in one batch: NCCL runs separate messages in sequence, so two ranks that both send first would deadlock.
        """
        messages = [dist.P2POp(dist.irecv, tensor, group=self._group, group_peer=rank) for rank, tensor in receives]
        messages += [dist.P2POp(dist.isend, tensor, group=self._group, group_peer=rank) for rank, tensor in sends]
        if not messages:
            return
        with self.peer_errors("exchange", waiting=True):
            for work in dist.batch_isend_irecv(messages):
                work.wait()
        self.synchronize()

    def send(self, tensor: Tensor, to: int) -> None:
        """Returns when `tensor` may be overwritten; on a GPU, by work on this thread's current stream."""
        with self.peer_errors(f"send to rank {to}", waiting=True):
            dist.send(tensor, group=self._group, group_dst=to)

    def receive(self, tensor: Tensor, source: int) -> None:
        """Returns when the message has arrived; NCCL's own call returns earlier."""
        with self.peer_errors(f"receive from rank {source}", waiting=True):
            dist.recv(tensor, group=self._group, group_src=source)
        self.synchronize()


def backend_of(device: torch.device) -> str:
    """The library that moves tensors of a device."""
    return "nccl" if device.type == "cuda" else "gloo"


def describe_group(boxed: Any) -> tuple[str, tuple[int, ...]] | None:
    """Name and global ranks of a process group, boxed as in the arguments of a c10d op; None for any other object.

    A reverse group has the name of the group that it belongs to.
    """
    try:
        group = dist.ProcessGroup.unbox(boxed)
    except (RuntimeError, TypeError):
        return None
    ranks = tuple(dist.get_process_group_ranks(group))
    if group.group_name == dist.group.WORLD.group_name:
        return WORLD_GROUP, ranks
    name = group.group_desc if group.group_desc != _NO_DESCRIPTION else f"group_{group.group_name}"
    return name.removesuffix(_REVERSE_SUFFIX), ranks


def work_future(boxed: Any) -> Any | None:
    """The future of a c10d op's boxed Work, or None where the backend has none (gloo's messages)."""
    try:
        return dist.Work.unbox(boxed).get_future()
    except (RuntimeError, TypeError, AttributeError):
        return None
