"""What des_ref.bench can time: collectives, messages between single ranks, and a local sum.

A case is one part or several that run at once, each an op on some of the ranks, as jobs that share a network do:

    {"parts": [{"op": "all_reduce", "bytes": 1048576, "ranks": [0, 1]}, ...],
     "iterations": 5, "warmup": 1, "delays": [[0, 0, 0.05, 0]], "connections": 7}

`ranks` (default: all) are in the order that the op sees them. `delays` are seconds that each rank of the job starts
after a barrier let all go, a list for each iteration, used in turns (default: none). Iterations take turns over so many
sets of `connections` (default: 1) as well, since networks choose ways by their ports.
"""

from __future__ import annotations

import json
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
from dessim.trace.schema import Collective

BYTES = 4  # of a float32, as trained
Op = Callable[[Comm, Tensor, Tensor], None]
Groups = dict[tuple[tuple[int, ...], int], Comm | None]
"""Made so far, by their ranks and set of connections; None where this rank is not in."""


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
    """Everyone sends `full` to the next rank; two ranks exchange."""
    n = comm.world_size
    comm.exchange([((comm.rank + 1) % n, full)], [((comm.rank - 1) % n, torch.empty_like(full))])


def _fan_in(comm: Comm, full: Tensor, chunk: Tensor) -> None:
    """All others send `full` to rank 0 at once."""
    others = range(1, comm.world_size)
    if comm.rank == 0:
        comm.exchange([], [(rank, torch.empty_like(full)) for rank in others])
    else:
        comm.exchange([(0, full)], [])


def _fan_out(comm: Comm, full: Tensor, chunk: Tensor) -> None:
    """Rank 0 sends `full` to each of the others at once; to one other: point to point."""
    if comm.rank == 0:
        comm.exchange([(rank, full) for rank in range(1, comm.world_size)], [])
    else:
        comm.exchange([], [(0, torch.empty_like(full))])


def _local_sum(comm: Comm, full: Tensor, chunk: Tensor) -> None:
    """No communication: `full` is added to itself, as a collective adds what it received."""
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
    """An op of S = `bytes` on `ranks`."""

    op: str
    bytes: int
    ranks: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return {"op": str(self.op), "bytes": self.bytes, "ranks": list(self.ranks)}


@dataclass(frozen=True, slots=True)
class Case:
    """Parts that run at once, on disjoint ranks."""

    parts: tuple[Part, ...]
    iterations: int
    warmup: int
    delays: tuple[tuple[float, ...], ...] = ()  # seconds of each rank, in each iteration
    connections: int = 1


class Runner:
    """One rank's side of a case: its op on tensors made beforehand. A rank without a part looks on."""

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
        """Be as late as the case says."""
        if delay := self._delays[iteration % len(self._delays)]:
            time.sleep(delay)

    def __call__(self, iteration: int) -> None:
        if self._ops:
            self._ops[iteration % len(self._ops)]()


def _group(comm: Comm, ranks: tuple[int, ...], number: int, groups: Groups) -> Comm | None:
    """The group of `ranks` with their set of connections of that number; made when it is first asked for."""
    key = (ranks, number)
    if key not in groups:
        everyone = ranks == tuple(range(comm.world_size))
        groups[key] = comm.beside(f"connections {number}") if everyone and number else comm.part(ranks)
    return groups[key]


def load_cases(path: Path, world_size: int) -> list[Case]:
    """The cases of a JSON file, a list of them under `cases`. Raises FileError."""
    try:
        raw = json.loads(path.read_text("utf-8"))["cases"]
        return [_case(entry, world_size) for entry in raw]
    except OSError as error:
        raise FileError(path, "", f"cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(path, "", f"not a file of cases (see des_ref/bench_ops.py): {error}") from None


def _case(entry: Mapping[str, Any], world_size: int) -> Case:
    parts = []
    for raw in entry["parts"]:
        if raw["op"] not in OPS:
            raise ValueError(f"unknown op {raw['op']!r}; choose from {', '.join(OPS)}")
        ranks = tuple(int(rank) for rank in raw.get("ranks") or range(world_size))
        parts.append(Part(raw["op"], whole(int(raw["bytes"]), len(ranks)), ranks))
    seats = [rank for part in parts for rank in part.ranks]
    if len(set(seats)) < len(seats) or not set(seats) <= set(range(world_size)):
        raise ValueError(f"ranks {seats} of a case are not different ones of {world_size}")
    delays = tuple(tuple(float(delay) for delay in of) for of in entry.get("delays") or [])
    if any(len(of) != world_size or min(of) < 0 for of in delays):
        raise ValueError(f"delays of a case are not {world_size} times of 0 s or more")
    return Case(
        tuple(parts),
        max(1, int(entry.get("iterations", 5))),
        int(entry.get("warmup", 1)),
        delays,
        max(1, int(entry.get("connections", 1))),
    )


def whole(size: int, ranks: int) -> int:
    """`size` rounded up so that each of the ranks' chunks holds whole floats."""
    step = BYTES * ranks
    return max(1, -(-size // step)) * step
