"""Schedules of messages: what a collective becomes.

A collective over n ranks is a sequence of stages; all messages of a stage travel at once and a stage ends when its last
message has arrived. Data is thought of as pieces: what `carries` says is checked (dessim.collectives.symbolic), never
timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from dessim.cluster.hashing import mix
from dessim.cluster.routing.trees import Trees

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rank = TypeVar("Rank", int, Ints)
Carries = Callable[[int], Sequence[Iterable[int]]]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a group sits on the machine: n ranks in order, `per_node` consecutive ones a node (1: no matter).

    `dims` factors n for torus algorithms (empty: as balanced as can be). `nvls` says that the switch inside a node can
    sum and multicast, `sharp` that the switches of the fabric can.
    """

    n: int
    per_node: int = 1
    dims: tuple[int, ...] = ()
    nvls: bool = False
    sharp: bool = False

    @property
    def is_hierarchical(self) -> bool:
        """Several whole nodes of several ranks each: two levels make sense."""
        return self.per_node > 1 and self.n % self.per_node == 0 and self.n > self.per_node

    @property
    def is_one_node(self) -> bool:
        """All ranks share a node."""
        return self.n == self.per_node


@dataclass(frozen=True, slots=True)
class Coming:
    """How ranks come to an op where that matters: at `times` [s], one for each, or at once in an order that follows no
    pattern, of which `seed` makes one."""

    seed: int = 0
    times: tuple[float, ...] = ()

    def rank(self, n: int) -> Ints:
        """Of each of n ranks, how many came before it [n]."""
        key = np.array(self.times) if self.times else mix(mix(np.arange(n, dtype=np.uint64)) + np.uint64(self.seed))
        return np.argsort(np.argsort(key, kind="stable"))

    def at(self, n: int) -> Floats:
        """Seconds at which each of n ranks comes [n]."""
        return np.array(self.times) if self.times else np.zeros(n)


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller may fix: `chunks` that a pipeline cuts its data into (None: by size, `pipeline.chunks_for`), the
    `root` of rooted ops, the sides `dims` of a torus (empty: as balanced as can be), how ranks are `coming`."""

    chunks: int | None = None
    root: int = 0
    dims: tuple[int, ...] = ()
    coming: Coming = Coming()


@dataclass(frozen=True, slots=True)
class Stage:
    """Messages that travel together: message i takes `size[i]` bytes from `src[i]` to `dst[i]` (indices in the group).

    With `trees` message i is one through summing switches: from all its senders up, and down to all its receivers;
    `src[i]` and `dst[i]` are then one sender and one receiver, whoever is to be charged for it.

    `repeat` equal stages follow each other, each waiting for the one before. `pattern` names who sends to whom, so that
    routes are worked out once; an empty one is unlike any other. In repetition r message i carries the pieces
    `carries(r)[i]`; the receiver adds them to what it has when `reduce` (one flag, or one a message), else it stores
    them. `pieces` is how many equal pieces S is cut into; 0 means one a rank.

    With `in_flight` above 1 a message goes as so many equal parts, and a part of the next repetition leaves as soon as
    the same part of this one has come: a repetition lasts as long as its data drains, or as a part takes with its
    latency, overhead and sum, whichever is longer.

    `after` [m] names for each message the one that it waits for, within a repetition (-1: none); others set out
    `begins` [m] seconds after the stage has begun.
    """

    pattern: tuple[object, ...]
    src: Ints
    dst: Ints
    size: Floats
    repeat: int = 1
    reduce: bool | Bools = False
    carries: Carries | None = None
    pieces: int = 0
    trees: Trees | None = None
    in_flight: int = 1
    after: Ints | None = None
    begins: Floats | None = None


def all_to_all_chunk(n: int, origin: Rank, target: Rank) -> Rank:
    """The piece that `origin` holds for `target`."""
    return origin * n + target
