"""Schedules of messages, and the symbolic checker that proves a schedule computes its collective.

A collective over n ranks is a sequence of stages; all messages of a stage travel at once and a stage ends when its last
message has arrived. Data is thought of as chunks: what `carries` says is checked, never timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dessim.trace.schema import Collective

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a group sits on the machine: n ranks in order, `per_node` consecutive ones a node (1: no matter)."""

    n: int
    per_node: int = 1

    @property
    def is_hierarchical(self) -> bool:
        """Several whole nodes of several ranks each: two levels make sense."""
        return self.per_node > 1 and self.n % self.per_node == 0 and self.n > self.per_node


@dataclass(frozen=True, slots=True)
class Stage:
    """Messages that travel together: message i takes `size[i]` bytes from `src[i]` to `dst[i]` (indices in the group).

    `repeat` equal stages follow each other, each waiting for the one before. `pattern` names who sends to whom, so that
    routes are worked out once. In repetition r message i carries the chunks `carries(r)[i]`; the receiver adds them to
    what it has when `reduce`, else it stores them.
    """

    pattern: tuple[object, ...]
    src: Ints
    dst: Ints
    size: Floats
    repeat: int = 1
    reduce: bool = False
    carries: Callable[[int], Sequence[Iterable[int]]] | None = None


def all_to_all_chunk(n: int, origin: int, target: int) -> int:
    """The chunk that `origin` holds for `target`."""
    return origin * n + target


def check_schedule(op: Collective, n: int, stages: Iterable[Stage]) -> list[str]:
    """Execute a schedule symbolically. Returns what is wrong with it; empty when it computes `op` exactly.

    A rank's copy of a chunk is the set of ranks whose contribution is in it, as a bit mask. Adding a contribution twice
    or sending what one does not have is an error; at the end each rank must hold each result exactly once.
    """
    held = _initial(op, n)
    for number, stage in enumerate(stages):
        if stage.carries is None:
            return [f"stage {number} does not say what it carries"]
        for repetition in range(stage.repeat):
            problem = _run(stage, repetition, held)
            if problem:
                return [f"stage {number}, repetition {repetition}: {problem}"]
    return _wrong_results(op, n, held)


def _initial(op: Collective, n: int) -> list[dict[int, int]]:
    match op:
        case Collective.ALL_REDUCE | Collective.REDUCE_SCATTER:
            return [{chunk: 1 << rank for chunk in range(n)} for rank in range(n)]
        case Collective.ALL_GATHER:
            return [{rank: 1 << rank} for rank in range(n)]
        case Collective.ALL_TO_ALL:
            return [{all_to_all_chunk(n, rank, target): 1 << rank for target in range(n)} for rank in range(n)]
    raise ValueError(f"no symbolic meaning for {op}")


def _run(stage: Stage, repetition: int, held: list[dict[int, int]]) -> str | None:
    """All messages of a stage leave before any arrives."""
    assert stage.carries is not None
    contents = stage.carries(repetition)
    flights: list[tuple[int, int, int, int]] = []
    for src, dst, chunks in zip(stage.src.tolist(), stage.dst.tolist(), contents, strict=True):
        if src == dst:
            return f"rank {src} sends to itself"
        for chunk in chunks:
            if chunk not in held[src]:
                return f"rank {src} sends chunk {chunk}, which it does not have"
            flights.append((src, dst, chunk, held[src][chunk]))
    for src, dst, chunk, mask in flights:
        have = held[dst].get(chunk, 0)
        if stage.reduce:
            if have & mask:
                return f"rank {dst} adds a contribution to chunk {chunk} from rank {src} twice"
            held[dst][chunk] = have | mask
        else:
            if have & ~mask:
                return f"rank {dst} overwrites contributions in chunk {chunk} with fewer from rank {src}"
            held[dst][chunk] = mask
    return None


def _wrong_results(op: Collective, n: int, held: list[dict[int, int]]) -> list[str]:
    full = (1 << n) - 1
    wanted: list[dict[int, int]]
    match op:
        case Collective.ALL_REDUCE:
            wanted = [dict.fromkeys(range(n), full)] * n
        case Collective.REDUCE_SCATTER:
            wanted = [{rank: full} for rank in range(n)]
        case Collective.ALL_GATHER:
            wanted = [{chunk: 1 << chunk for chunk in range(n)}] * n
        case _:
            wanted = [{all_to_all_chunk(n, origin, rank): 1 << origin for origin in range(n)} for rank in range(n)]
    return [
        f"rank {rank} ends with chunk {chunk} = {held[rank].get(chunk, 0):b}, not {mask:b}"
        for rank in range(n)
        for chunk, mask in wanted[rank].items()
        if held[rank].get(chunk, 0) != mask
    ]
