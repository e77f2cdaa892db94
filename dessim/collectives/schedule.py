"""The schedule of a collective: a sequence of stages, each a set of messages that are in flight together.

A stage ends when its last message has arrived. For checking, the data is cut into pieces: `Stage.carries` says which
pieces a message moves, and dessim.collectives.symbolic proves from it that the schedule computes its collective. The
simulation uses only senders, receivers and sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from dessim.arrays import Bools, Floats, Ints
from dessim.cluster.hashing import mix
from dessim.cluster.routing.trees import Trees
from dessim.collectives.timing import Timing

Rank = TypeVar("Rank", int, Ints)
Carries = Callable[[int], Sequence[Iterable[int]]]
"""A function that returns, for repetition r of a stage, the pieces that each message carries."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a group of n ranks is laid out on the cluster: `per_node` consecutive ranks share a node.

    `per_node` is 1 when no whole nodes are used. `dims` are the sides of the torus for torus algorithms (empty: as
    balanced as possible). `nvls` says that the switch inside a node can sum and multicast, `sharp` that the switches of
    the fabric can.
    """

    n: int
    per_node: int = 1
    dims: tuple[int, ...] = ()
    nvls: bool = False
    sharp: bool = False

    @property
    def is_hierarchical(self) -> bool:
        """Whether the group has several whole nodes of several ranks each, as two-level algorithms need."""
        return self.per_node > 1 and self.n % self.per_node == 0 and self.n > self.per_node

    @property
    def is_one_node(self) -> bool:
        """Whether all ranks share one node."""
        return self.n == self.per_node


@dataclass(frozen=True, slots=True)
class ArrivalTimes:
    """When ranks arrive at an op, for algorithms whose order of messages depends on it.

    Rank i arrives at `times[i]` [s]. Without `times` all ranks arrive at time 0, in a pseudo-random order that `seed`
    selects.
    """

    seed: int = 0
    times: tuple[float, ...] = ()

    def order(self, n: int) -> Ints:
        """The number of ranks that arrive before each of the n ranks [n]."""
        key = np.array(self.times) if self.times else mix(mix(np.arange(n, dtype=np.uint64)) + np.uint64(self.seed))
        return np.argsort(np.argsort(key, kind="stable"))

    def seconds(self, n: int) -> Floats:
        """The time at which each of the n ranks arrives [n], in seconds."""
        return np.array(self.times) if self.times else np.zeros(n)


@dataclass(frozen=True, slots=True)
class Options:
    """Choices that an algorithm leaves to its caller.

    `chunks` is the number of chunks in a pipeline (None: a simulation runs the fastest of `pipeline.CHUNK_COUNTS`, a
    schedule alone has messages of 512 KiB), `root` the root of rooted ops, `dims` the sides of a torus (empty: as
    balanced as possible), and `arrivals` says when ranks arrive. `protocol` ("": NCCL chooses) and `channels` (None:
    NCCL chooses) override NCCL. `timing` says what the time of a call covers, and one process drives
    `gpus_per_process` GPUs; both matter to NCCL's own algorithms only.
    """

    chunks: int | None = None
    root: int = 0
    dims: tuple[int, ...] = ()
    arrivals: ArrivalTimes = ArrivalTimes()
    protocol: str = ""
    channels: int | None = None
    timing: Timing = Timing.ALONE
    gpus_per_process: int = 1


@dataclass(frozen=True, slots=True)
class Stage:
    """m messages that are in flight together; message i moves `size[i]` bytes from rank `src[i]` to rank `dst[i]`.

    Ranks are indices in the group. With `trees`, message i passes through switches that sum and multicast: up from all
    of its senders, down to all of its receivers. Its overheads are then charged to the sender `src[i]` and the receiver
    `dst[i]`.

    The stage is executed `repeat` times, each time after the previous repetition has ended. `pattern` identifies the
    pairs of sender and receiver: stages with equal patterns share their routes. An empty pattern is never shared.

    In repetition r message i carries the pieces `carries(r)[i]`, of the `pieces` equal pieces that the data is cut into
    (0: one per rank). The receiver adds them to its own where `reduce` is set (one flag, or one per message) and stores
    them otherwise.

    With `in_flight` above 1 each message is sent in that number of equal parts, and a part of the next repetition
    leaves as soon as the same part of this one has arrived. A repetition then lasts for the longer of two times: that
    in which its data drains, and that of one part with its latency, overhead and sum.

    With `continues`, the messages are the rest of those of the stage before, and cost no further overhead.

    `after[i]` is the message of the same repetition that message i waits for (-1: none). A message that waits for no
    other leaves `begins[i]` seconds after the stage has begun.
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
    continues: bool = False
    after: Ints | None = None
    begins: Floats | None = None


def all_to_all_chunk(n: int, origin: Rank, target: Rank) -> Rank:
    """The piece that `origin` holds for `target`."""
    return origin * n + target
