"""The ops that des_ref.bench times: collectives, point-to-point messages, and a local sum.

A case has one or more parts that run at once, each an op on some of the ranks, like jobs that share a network:

    {"parts": [{"op": "all_reduce", "bytes": 1048576, "ranks": [0, 1]}, ...],
     "iterations": 5, "warmup": 1, "delays": [[0, 0, 0.05, 0]], "connections": 7}

`ranks` (default: all) are in the order in which the op numbers them. `delays` has one or more lists, each with the
seconds by which every rank of the job starts late after the barrier; iterations use the lists in turn (default: no
delay). `connections` (default: 1) is a number of sets of connections, which iterations also use in turn, because
networks choose routes by port numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from des_ref.comm import Comm
from dessim.errors import FileError
from dessim.files import read_json
from dessim.trace.schema import Collective

BYTES = 4  # of a float32, the type that the trainer sends
Op = Callable[[Comm, Tensor, Tensor], None]
Groups = dict[tuple[tuple[int, ...], int], Comm | None]
"""Process groups created so far, by ranks and number of the set of connections; None where this rank is no member."""


def _all_reduce(comm: Comm, full: Tensor, chunk: Tensor) -> None:
    comm.all_reduce("bench", full).wait()


def _all_to_all(comm: Comm, full: Tensor, chunk: Tensor) -> None:
    comm.all_to_all("bench", torch.empty_like(full), full, None, None).wait()


def _all_gather(comm: Comm, full: Tensor, chunk: Tensor) -> None:
    comm.all_gather("bench", full, chunk).wait()


def _reduce_scatter(comm: Comm, full: Tensor, chunk: Tensor) -> None:
    comm.reduce_scatter("bench", chunk, full).wait()


def _broadcast(comm: Comm, full: Tensor, chunk: Tensor) -> None:
    comm.broadcast("bench", full)


def _barrier(comm: Comm, full: Tensor, chunk: Tensor) -> None:
    comm.barrier()


def _send_recv(comm: Comm, full: Tensor, chunk: Tensor) -> None:
    """Every rank sends `full` to the next one; two ranks exchange it."""
    n = comm.world_size
    comm.exchange([((comm.rank + 1) % n, full)], [((comm.rank - 1) % n, torch.empty_like(full))])


def _fan_in(comm: Comm, full: Tensor, chunk: Tensor) -> None:
    """All other ranks send `full` to rank 0 at once (incast)."""
    others = range(1, comm.world_size)
    if comm.rank == 0:
        comm.exchange([], [(rank, torch.empty_like(full)) for rank in others])
    else:
        comm.exchange([(0, full)], [])


def _fan_out(comm: Comm, full: Tensor, chunk: Tensor) -> None:
    """Rank 0 sends `full` to every other rank at once. With two ranks this is point to point."""
    if comm.rank == 0:
        comm.exchange([(rank, full) for rank in range(1, comm.world_size)], [])
    else:
        comm.exchange([], [(0, torch.empty_like(full))])


def _local_sum(comm: Comm, full: Tensor, chunk: Tensor) -> None:
    """No communication: adds `full` to itself, as a collective adds a received chunk."""
    full += full


COLLECTIVES: dict[str, Op] = {
    Collective.ALL_REDUCE: _all_reduce,
    Collective.ALL_TO_ALL: _all_to_all,
    Collective.ALL_GATHER: _all_gather,
    Collective.REDUCE_SCATTER: _reduce_scatter,
}
OPS: dict[str, Op] = {
    **COLLECTIVES,
    Collective.BROADCAST: _broadcast,
    Collective.BARRIER: _barrier,
    Collective.SEND_RECV: _send_recv,
    "fan_in": _fan_in,
    "fan_out": _fan_out,
    "local_sum": _local_sum,
}


@dataclass(frozen=True, slots=True)
class Part:
    """An op with S = `bytes` on `ranks`."""

    op: str
    bytes: int
    ranks: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return {"op": str(self.op), "bytes": self.bytes, "ranks": list(self.ranks)}


@dataclass(frozen=True, slots=True)
class Case:
    """Parts that run at once, on disjoint ranks. `delays` [lists][world_size] are in seconds."""

    parts: tuple[Part, ...]
    iterations: int
    warmup: int
    delays: tuple[tuple[float, ...], ...] = ()
    connections: int = 1


class Runner:
    """One rank's side of a case: its op, on tensors allocated in advance. A rank without a part runs nothing."""

    def __init__(self, comm: Comm, case: Case, groups: Groups) -> None:
        self._ops: list[Callable[[], None]] = []
        self._delays = [delays[comm.rank] for delays in case.delays] or [0.0]
        for part in case.parts:
            full = torch.ones(part.bytes // BYTES, device=comm.device)
            chunk = torch.ones(len(full) // len(part.ranks), device=comm.device)
            for number in range(case.connections):
                group = _group(comm, part.ranks, number, groups)
                if group is not None:
                    self._ops.append(partial(OPS[part.op], group, full, chunk))

    @property
    def takes_part(self) -> bool:
        return bool(self._ops)

    def wait(self, iteration: int) -> None:
        """Sleep for this rank's delay of the iteration."""
        if delay := self._delays[iteration % len(self._delays)]:
            time.sleep(delay)

    def __call__(self, iteration: int) -> None:
        if self._ops:
            self._ops[iteration % len(self._ops)]()


def _group(comm: Comm, ranks: tuple[int, ...], number: int, groups: Groups) -> Comm | None:
    """The process group of `ranks` on a set of connections, created on first use."""
    key = (ranks, number)
    if key not in groups:
        has_all_ranks = ranks == tuple(range(comm.world_size))
        groups[key] = comm.separate_group(f"connections {number}") if has_all_ranks and number else comm.subgroup(ranks)
    return groups[key]


def load_cases(path: Path, world_size: int) -> list[Case]:
    """The cases of a JSON file, which lists them under `cases`. Raises FileError."""
    try:
        raw = read_json(path)["cases"]
        return [_case(entry, world_size) for entry in raw]
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(path, "", f"not a file of cases (see des_ref/bench_cases.py): {error}") from None


def _case(entry: Mapping[str, Any], world_size: int) -> Case:
    parts = []
    for raw in entry["parts"]:
        if raw["op"] not in OPS:
            raise ValueError(f"unknown op {raw['op']!r}; choose from {', '.join(OPS)}")
        ranks = tuple(int(rank) for rank in raw.get("ranks") or range(world_size))
        parts.append(Part(raw["op"], whole(int(raw["bytes"]), len(ranks)), ranks))
    used = [rank for part in parts for rank in part.ranks]
    if len(set(used)) < len(used) or not set(used) <= set(range(world_size)):
        raise ValueError(f"ranks {used} of a case must be distinct and below {world_size}")
    delays = tuple(tuple(float(delay) for delay in per_rank) for per_rank in entry.get("delays") or [])
    if any(len(per_rank) != world_size or min(per_rank) < 0 for per_rank in delays):
        raise ValueError(f"delays of a case must be lists of {world_size} times of 0 s or more")
    return Case(
        parts=tuple(parts),
        iterations=max(1, int(entry.get("iterations", 5))),
        warmup=int(entry.get("warmup", 1)),
        delays=delays,
        connections=max(1, int(entry.get("connections", 1))),
    )


def whole(size: int, ranks: int) -> int:
    """`size` rounded up to a multiple of `ranks` floats, so that a chunk of each rank holds whole floats."""
    multiple = BYTES * ranks
    return max(1, -(-size // multiple)) * multiple
